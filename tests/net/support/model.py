"""A language model's service with the OpenAI API, that says what it is told to."""
import json

from .receiver import Answer, Receiver

SUMMARY = {"title": "A test of summaries", "overview": "Ann and Bea talk about a test.", "emoji": "🧪",
           "category": "technology",
           "action_items": [{"description": "Write the test", "completed": False}],
           "events": [{"title": "Meeting", "description": "About the test", "start": "2026-01-31T12:00:00+01:00",
                       "duration": 30}]}
DAY = {key: SUMMARY[key] for key in ("title", "overview", "emoji", "category", "action_items")}


def completion(content, finish="stop", prompt=19, tokens=10, **message):
    """An answer as the API gives it."""
    return json.dumps({
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion", "created": 1741569952,
        "model": "test-model-2026", "choices": [{
            "index": 0, "message": dict({"role": "assistant", "content": content, "refusal": None, "annotations": []},
                                        **message), "logprobs": None, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens,
                  "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                  "completion_tokens_details": {"reasoning_tokens": 0}},
        "service_tier": "default", "system_fingerprint": "fp_44709d6fcb"}).encode()


def says(content, **more):
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return Answer(200, completion(text, **more), {"Content-Type": "application/json"})


class Model(Receiver):
    """Answers with what `script` (the request as JSON -> Answer) says, by default the summary."""

    PATH = "/v1/chat/completions"

    def __init__(self, context=None):
        self.script = lambda request: says(SUMMARY)
        super().__init__(context)

    @property
    def base(self):
        return self.url("/v1")

    def _answer(self, path):
        if path != self.PATH:
            return Answer(404)
        return self.script(self.deliveries[-1].json)

    def about(self, words):
        """The requests whose quotation has these words."""
        return [d for d in self.deliveries if words in d.json["messages"][1]["content"]]
