"""Settings of omi.conf that scenarios share."""
from .daemon import merge

KEY = "scenario-deepgram-key"


def with_deepgram(peer, models=("dg-nova-3",), **plugin):
    """Deepgram at the peer, with short pauses; the plugin's options can be overridden."""
    block = {"url": peer.url, "key": KEY, "backoff": "20ms", "backoff_max": "200ms", "close_timeout": "5s"}
    return {"stt": {"models": list(models)}, "listen": {"ping": "200ms"}, "plugin deepgram": merge(block, plugin)}


def with_sphinx(settings):
    """The local provider as the next one of the list."""
    return merge(settings, {"stt": {"models": ["dg-nova-3", "sphinx"]}, "plugin sphinx": {}})
