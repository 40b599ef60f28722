#include "conf/table.h"

#include <string.h>

#include "base/magic.h"

#define SEC *1000.0
#define MIN *60000.0
#define HOUR *3600000.0
#define DAY *86400000.0
#define KIB *1024.0
#define MIB *1048576.0
#define GIB *1073741824.0

#define RELOAD OMID_OPT_RELOADABLE

/* A lane's breaker, and the one of some of its targets: the same options and bounds, without defaults, as the lane's
 * values are those. */
#define OWN(said) said
#define INHERITED(said) NULL
#define AS_IN_BREAKER(said) "As in plugin.breaker."
/* clang-format off */
#define BREAKER_ROWS(L, section, DEF, HELP) \
    L(section, "failures", INT, DEF("5"), 1, 1000, NULL, RELOAD, breaker_failures, \
      HELP("Consecutive failures that open the breaker of a target.")) \
    L(section, "open", DURATION, DEF("30s"), 100, 1 HOUR, NULL, RELOAD, breaker_open_ms, \
      HELP("How long it stays open before the first probe; doubled at each failed one.")) \
    L(section, "open_max", DURATION, DEF("10min"), 100, 1 DAY, NULL, RELOAD, breaker_open_max_ms, \
      HELP("The longest it stays open before a probe; at least open.")) \
    L(section, "window", DURATION, DEF("30s"), 1 SEC, 1 HOUR, NULL, RELOAD, breaker_window_ms, \
      HELP("The time over which failures and slow calls are counted for their shares.")) \
    L(section, "error_rate", FLOAT, DEF("0.5"), 0.01, 1, NULL, RELOAD, breaker_error_rate, \
      HELP("Share of failures among the attempts of the window that opens it as well.")) \
    L(section, "min_attempts", INT, DEF("20"), 1, 1000000, NULL, RELOAD, breaker_min_attempts, \
      HELP("Attempts of the window below which neither their failures' share nor that of the slow ones counts.")) \
    L(section, "slow", DURATION, DEF("0s"), 0, 1 HOUR, NULL, RELOAD, breaker_slow_ms, \
      HELP("A request that takes at least this long is slow. 0s: no request is slow. WebSockets have no part in it.")) \
    L(section, "slow_share", FLOAT, DEF("0.8"), 0.01, 1, NULL, RELOAD, breaker_slow_share, \
      HELP("Share of slow ones among the attempts of the window that opens it, too."))
/* clang-format on */

/* What an app and a webhook have in common. */
#define AS_IN_APP(said) "As in the app block."
/* clang-format off */
#define EVENT_ROWS(N, section, HELP) \
    N(section, "events", LIST, NULL, 1, 64, NULL, RELOAD, \
      HELP("Types of custom events it is told about: order.paid, order.*, or * for all.")) \
    N(section, "filter", STRING, NULL, 2, 4096, NULL, RELOAD, \
      HELP("JSON object of paths and wanted values that a custom event must have."))
#define DELIVERY_ROWS(N, section, HELP) \
    N(section, "audio", DURATION, "5s", 1 SEC, 1 MIN, NULL, RELOAD, \
      "How much audio is sent at once, in whole seconds.") \
    N(section, "ordered", BOOL, "false", 0, 0, NULL, RELOAD, \
      HELP("Whether durable deliveries keep their order; one that fails then holds back those behind it.")) \
    N(section, "rate_per_min", INT, "0", 0, 1000000, NULL, RELOAD, \
      HELP("Durable deliveries begun a minute; 0: no bound."))
/* clang-format on */

/* R(section, key, type, default, min, max, choices, flags, member of struct conf, help)
 * L(...) the same with a member of struct conf_lane, N(...) without one.
 * Timers and bounds: the numbers of the listen protocol and of the resilience rules. */
/* clang-format off */
#define CONF_ROWS(R, L, N) \
    R("log", "level", ENUM, "info", 0, 0, "error|warning|notice|info|debug", RELOAD, log.level, \
      "The least important level that is written.") \
    R("log", "format", ENUM, "text", 0, 0, "text|json", RELOAD, log.format, \
      "Lines of key=value pairs, or one JSON object per line.") \
    R("log", "target", ENUM, "stderr", 0, 0, "stderr|syslog|journald", RELOAD, log.target, \
      "Where log lines go.") \
    R("daemon", "state_dir", STRING, OMID_STATEDIR, 1, 4000, NULL, 0, daemon.state_dir, \
      "Directory of store.db and queue.db. A leading ~/ is the home directory.") \
    R("daemon", "run_dir", STRING, OMID_RUNDIR, 1, 94, NULL, 0, daemon.run_dir, \
      "Directory of control.sock, through which omictl speaks to the daemon. A leading ~/ is the home directory.") \
    R("daemon", "plugin_dir", STRING, OMID_PLUGINDIR, 1, 4000, NULL, RELOAD, daemon.plugin_dir, \
      "Where plugins without a path of their own are looked for, as NAME.so.") \
    R("daemon", "reactors", INT, "1", 1, 64, NULL, 0, daemon.reactors, \
      "Reactor threads. A session belongs to one of them for life.") \
    R("daemon", "drain", DURATION, "40s", 100, 1 HOUR, NULL, RELOAD, daemon.drain_ms, \
      "The longest time from SIGTERM to the end of the process.") \
    R("daemon", "strict_lint", BOOL, "false", 0, 0, NULL, RELOAD, daemon.strict_lint, \
      "Whether a plugin whose file has calls that block a loop is refused. Otherwise it is warned about.") \
    R("watchdog", "slow", DURATION, "50ms", 10, 1 SEC, NULL, 0, watchdog.slow_ms, \
      "A callback that holds its loop for longer is logged while it still runs, and counted.") \
    R("watchdog", "fatal", DURATION, "30s", 1 SEC, 1 HOUR, NULL, 0, watchdog.fatal_ms, \
      "While a loop, an ingress thread or the main thread is held for longer, systemd's watchdog is not fed, so that " \
      "systemd restarts the daemon.") \
    R("memory", "sessions", SIZE, "2GiB", 16 MIB, 1024 GIB, NULL, RELOAD, memory.sessions, \
      "Budget of all session buffers together, and of requests and messages that are not whole yet. Beyond it new " \
      "sessions are refused with 1013 and large requests with 503; existing sessions keep theirs.") \
    R("memory", "check", DURATION, "10s", 100, 1 HOUR, NULL, RELOAD, memory.check_ms, \
      "How often idle memory is looked for: what was freed goes back to the system when three looks in a row have " \
      "found it idle. The caches of the files of the queue and the store are freed so long after their last change.") \
    R("ingress", "address", LIST, "0.0.0.0:8700", 1, 16, NULL, 0, ingress.address, \
      "Addresses to listen on, IPv4:PORT or [IPv6]:PORT. Port 0 takes any free port.") \
    R("ingress", "threads", INT, "1", 1, 16, NULL, 0, ingress.threads, \
      "Ingress threads, each with a listener of its own on every address.") \
    R("ingress", "max_connections", INT, "10000", 1, 1000000, NULL, RELOAD, ingress.max_connections, \
      "Client connections in all. Beyond it the one that has asked for nothing for longest makes room, or the next one is " \
      "closed.") \
    R("ingress", "max_connections_per_address", INT, "1000", 1, 1000000, NULL, RELOAD, \
      ingress.max_connections_per_address, \
      "Client connections from one address. Those of trusted_proxies are not counted.") \
    R("ingress", "max_header", SIZE, "16KiB", 1 KIB, 1 MIB, NULL, RELOAD, ingress.max_header, \
      "The largest request head.") \
    R("ingress", "max_body", SIZE, "1MiB", 1 KIB, 64 MIB, NULL, RELOAD, ingress.max_body, \
      "The largest request body; beyond it 413.") \
    R("ingress", "max_message", SIZE, "1MiB", 1 KIB, 64 MIB, NULL, RELOAD, ingress.max_message, \
      "The largest WebSocket message, over all its fragments; beyond it 1009.") \
    R("ingress", "request_timeout", DURATION, "10s", 100, 10 MIN, NULL, RELOAD, ingress.request_timeout_ms, \
      "The longest time from a request's first byte to its last.") \
    R("ingress", "answer_timeout", DURATION, "60s", 100, 10 MIN, NULL, RELOAD, ingress.answer_timeout_ms, \
      "The longest time from a request to its answer; beyond it 504.") \
    R("ingress", "receive_timeout", DURATION, "300s", 100, 1 DAY, NULL, RELOAD, ingress.receive_timeout_ms, \
      "A WebSocket that sends not one byte for so long, pongs included, is torn down.") \
    R("ingress", "ping_interval", DURATION, "30s", 0, 1 HOUR, NULL, RELOAD, ingress.ping_interval_ms, \
      "Interval of WebSocket pings, which find dead peers; 0s sends none.") \
    R("ingress", "origins", LIST, NULL, 0, 64, NULL, RELOAD, ingress.origins, \
      "Origin values a browser may connect from, as https://app.example.com; none given allows any.") \
    R("ingress", "trusted_proxies", LIST, NULL, 0, 64, NULL, RELOAD, ingress.trusted_proxies, \
      "Addresses and networks (10.0.0.0/8) of proxies in front of omid: a client's address is then the last one in " \
      "X-Forwarded-For that is none of them. From anyone else that header means nothing.") \
    R("ingress.tls", "certificate", STRING, NULL, 1, 4000, NULL, 0, ingress.tls_certificate, \
      "PEM file of the certificate chain. With it, and key, every address speaks TLS 1.2 or later.") \
    R("ingress.tls", "key", STRING, NULL, 1, 4000, NULL, 0, ingress.tls_key, \
      "PEM file of the certificate's private key.") \
    R("listen", "pcm8", ENUM, "s16le", 0, 0, "s16le|u8", 0, listen.pcm8_u8, \
      "What the codec pcm8 means: 16-bit little-endian samples (the 8 is 8 kHz), or unsigned 8-bit ones.") \
    R("listen", "conversation_timeout", DURATION, "120s", 2 SEC, 4 HOUR, NULL, RELOAD, \
      listen.conversation_timeout_ms, \
      "Silence that ends a conversation, for clients that don't say.") \
    R("listen", "conversation_timeout_floor", DURATION, "120s", 2 SEC, 4 HOUR, NULL, RELOAD, \
      listen.conversation_timeout_floor_ms, \
      "The shortest conversation_timeout a client can ask for.") \
    R("listen", "inactivity", DURATION, "90s", 100, 1 DAY, NULL, RELOAD, listen.inactivity_ms, \
      "A client that sends no data frame for so long is closed with 1001; pongs don't count.") \
    R("listen", "ping", DURATION, "10s", 100, 1 HOUR, NULL, RELOAD, listen.ping_ms, \
      "Interval of the protocol's literal text message ping.") \
    R("listen", "transcript_flush", DURATION, "600ms", 10, 1 MIN, NULL, RELOAD, listen.transcript_flush_ms, \
      "Interval at which new segments go to the client.") \
    R("listen", "consumer_flush", DURATION, "1s", 10, 1 MIN, NULL, RELOAD, listen.consumer_flush_ms, \
      "Interval at which new segments and audio go to consumers, such as webhooks.") \
    R("listen", "lifecycle_check", DURATION, "5s", 50, 10 MIN, NULL, RELOAD, listen.lifecycle_check_ms, \
      "Interval at which it is checked whether a conversation has ended.") \
    R("listen", "drain", DURATION, "30s", 100, 10 MIN, NULL, RELOAD, listen.drain_ms, \
      "Grace for background work of a session after the client has left.") \
    R("listen", "drain_bound", DURATION, "5s", 100, 10 MIN, NULL, RELOAD, listen.drain_bound_ms, \
      "Time for that work to end once it is cancelled; what is left then is abandoned by name.") \
    R("listen", "up_buffer", SIZE, "1MiB", 64 KIB, 64 MIB, NULL, RELOAD, listen.up_buffer, \
      "Bytes on the way from one client to its session; when full, the client is not read.") \
    R("listen", "down_buffer", SIZE, "1MiB", 64 KIB, 64 MIB, NULL, RELOAD, listen.down_buffer, \
      "Bytes on the way from a session to its client; when full, transcript updates are coalesced.") \
    R("listen", "audio_buffer", SIZE, "10MiB", 64 KIB, 1 GIB, NULL, RELOAD, listen.audio_buffer, \
      "Audio of one session that waits for speech-to-text.") \
    R("listen", "up_stall", DURATION, "10s", 100, 10 MIN, NULL, RELOAD, listen.up_stall_ms, \
      "A session whose way up stays full for so long is closed with 1013.") \
    R("listen", "down_stall", DURATION, "30s", 100, 10 MIN, NULL, RELOAD, listen.down_stall_ms, \
      "A session whose way down stays full for so long is closed with 1013.") \
    R("listen", "max_segments", INT, "1000", 1, 100000, NULL, RELOAD, listen.max_segments, \
      "Segments of one session that wait for a flush.") \
    R("listen", "max_photos", INT, "100", 1, 10000, NULL, RELOAD, listen.max_photos, \
      "Photos of one conversation that wait for the store.") \
    R("listen", "max_photo", SIZE, "2MiB", 1 KIB, 16 MIB, NULL, RELOAD, listen.max_photo, \
      "The largest photo, in base64.") \
    R("listen", "max_partial_photos", INT, "50", 1, 10000, NULL, RELOAD, listen.max_partial_photos, \
      "Photos of one session of which pieces are missing; the oldest is dropped for one more.") \
    R("listen", "photo_buffer", SIZE, "10MiB", 64 KIB, 1 GIB, NULL, RELOAD, listen.photo_buffer, \
      "Bytes of one session's photos of which pieces are missing; the oldest is dropped for more.") \
    R("listen", "photo_timeout", DURATION, "60s", 100, 1 HOUR, NULL, RELOAD, listen.photo_timeout_ms, \
      "The longest time from a photo's first piece to its last.") \
    R("listen", "process_wait", DURATION, "50s", 10, 55 SEC, NULL, RELOAD, listen.process_wait_ms, \
      "How long POST /v1/conversations waits for the processing before it answers 202.") \
    R("listen", "location_age", DURATION, "12h", 1 MIN, 168 HOUR, NULL, RELOAD, listen.location_age_ms, \
      "A user's location counts for a conversation within which it was said, or at most so long before or after it.") \
    R("listen", "max_sessions", INT, "10000", 1, 1000000, NULL, RELOAD, listen.max_sessions, \
      "Live sessions of the whole daemon; beyond it 1013.") \
    R("listen", "auth_timeout", DURATION, "5s", 100, 1 MIN, NULL, RELOAD, listen.auth_timeout_ms, \
      "Time for a web client's first message, which authenticates it.") \
    R("limits", "sessions_per_uid", INT, "100", 1, 1000000, NULL, RELOAD, limits.sessions_per_uid, \
      "WebSockets of one user at once.") \
    R("limits", "sessions_per_address", INT, "5000", 1, 1000000, NULL, RELOAD, limits.sessions_per_address, \
      "WebSockets from one address at once; an office or a mobile network may share one.") \
    R("limits", "upgrades_per_uid", INT, "600", 1, 1000000, NULL, RELOAD, limits.upgrades_per_uid, \
      "WebSocket upgrades of one user a minute.") \
    R("limits", "upgrades_per_address", INT, "6000", 1, 1000000, NULL, RELOAD, limits.upgrades_per_address, \
      "WebSocket upgrades from one address a minute, those with a bad token included.") \
    R("limits", "unauthenticated", INT, "1000", 1, 1000000, NULL, RELOAD, limits.unauthenticated, \
      "Web clients that are connected and have not sent their token yet; one address may hold a quarter of them.") \
    R("ingress.upload", "address", LIST, NULL, 0, 4, NULL, 0, ingress.upload.address, \
      "Addresses for uploads: they serve what the others serve, with max_body and request_timeout of their own. None given: " \
      "uploads are as large as ingress.max_body.") \
    R("ingress.upload", "max_connections", INT, "16", 1, 1000, NULL, RELOAD, ingress.upload.max_connections, \
      "Connections to these addresses at once; each may hold max_body in memory.") \
    R("ingress.upload", "max_body", SIZE, "64MiB", 1 KIB, 1 GIB, NULL, RELOAD, ingress.upload.max_body, \
      "The largest request body there; beyond it 413.") \
    R("ingress.upload", "request_timeout", DURATION, "5min", 100, 10 MIN, NULL, RELOAD, \
      ingress.upload.request_timeout_ms, \
      "The longest time from a request's first byte to its last there.") \
    R("sync", "keep", DURATION, "30d", 1 MIN, 3650 DAY, NULL, RELOAD, sync.keep_ms, \
      "How long it is known which recordings have been uploaded: the same one uploaded again within this time is not " \
      "transcribed again.") \
    R("sync", "max_audio", DURATION, "4h", 1 SEC, 1 DAY, NULL, RELOAD, sync.max_audio_ms, \
      "The longest recording that is taken.") \
    R("sync", "max_files", INT, "64", 1, 64, NULL, RELOAD, sync.max_files, \
      "Recordings of one upload.") \
    R("sync", "running", INT, "2", 1, 64, NULL, RELOAD, sync.running, \
      "Recordings that one reactor works on at once.") \
    R("sync", "attempts", INT, "6", 1, 100, NULL, RELOAD, sync.attempts, \
      "Attempts at a recording in a row that come to nothing, before it has failed.") \
    R("sync", "retry", DURATION, "10s", 10, 1 HOUR, NULL, RELOAD, sync.retry_ms, \
      "Pause before the second attempt, doubled before each further one up to an hour.") \
    R("sync", "check", DURATION, "5s", 10, 10 MIN, NULL, RELOAD, sync.check_ms, \
      "Interval at which recordings that wait are looked for.") \
    R("sync", "sweep", DURATION, "15min", 10, 1 DAY, NULL, RELOAD, sync.sweep_ms, \
      "Interval at which files are looked for that are an hour old and belong to no recording, and removed.") \
    R("auth", "admin_key", SECRET, NULL, 4, 256, NULL, RELOAD, auth.admin_key, \
      "Key of the development token form, which is this key immediately followed by the uid. None given: the form is off.") \
    R("auth.jwt", "project", STRING, NULL, 1, 200, NULL, RELOAD, auth.jwt.project, \
      "Audience of the id tokens, the project's name. None given: no id tokens are taken.") \
    R("auth.jwt", "issuer", STRING, NULL, 1, 1000, NULL, RELOAD, auth.jwt.issuer, \
      "Issuer of the id tokens. Default: https://securetoken.google.com/ and the project.") \
    R("auth.jwt", "jwks_url", STRING, \
      "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com", 1, 2000, NULL, \
      RELOAD, auth.jwt.jwks_url, "Where the issuer's public keys are, as a JSON Web Key Set.") \
    R("auth.jwt", "leeway", DURATION, "60s", 0, 10 MIN, NULL, RELOAD, auth.jwt.leeway_ms, \
      "How far the issuer's clock may be from ours.") \
    R("auth.jwt", "wait", DURATION, "3s", 10, 30 SEC, NULL, RELOAD, auth.jwt.wait_ms, \
      "How long a client waits for keys that are being fetched; then 503, or 1013.") \
    R("auth.jwt", "refresh_min", DURATION, "60s", 100, 1 HOUR, NULL, RELOAD, auth.jwt.refresh_min_ms, \
      "The shortest time between two fetches of the keys, whatever Cache-Control says and however many tokens name " \
      "a key that is not there.") \
    R("auth.jwt", "stale", DURATION, "1d", 0, 7 DAY, NULL, RELOAD, auth.jwt.stale_ms, \
      "How long keys are used beyond their time while the issuer can't be reached.") \
    R("auth.lane", "pool", INT, "20", 1, 4096, NULL, RELOAD, auth.lane.pool, \
      "Connections of the lane, at least semaphore.") \
    R("auth.lane", "idle", INT, "8", 0, 4096, NULL, RELOAD, auth.lane.idle, \
      "Connections kept open while unused, at most pool.") \
    R("auth.lane", "semaphore", INT, "20", 1, 4096, NULL, RELOAD, auth.lane.semaphore, \
      "Requests in flight at once.") \
    R("auth.lane", "queue", INT, "64", 1, 1000000, NULL, RELOAD, auth.lane.queue, \
      "Requests that wait for the semaphore.") \
    R("auth.lane", "connect_timeout", DURATION, "2s", 10, 5 MIN, NULL, RELOAD, auth.lane.connect_timeout_ms, \
      "The longest time for a connection, TLS included; at most timeout.") \
    R("auth.lane", "timeout", DURATION, "10s", 10, 1 HOUR, NULL, RELOAD, auth.lane.timeout_ms, \
      "The longest time for a whole request, absolute: a peer that drips doesn't extend it.") \
    R("auth.lane", "queue_timeout", DURATION, "10s", 10, 1 HOUR, NULL, RELOAD, auth.lane.queue_timeout_ms, \
      "The longest wait for the semaphore.") \
    R("auth.lane.breaker", "failures", INT, "5", 1, 1000, NULL, RELOAD, auth.lane.breaker_failures, \
      "Consecutive failures that open the breaker of a target.") \
    R("auth.lane.breaker", "open", DURATION, "30s", 100, 1 HOUR, NULL, RELOAD, auth.lane.breaker_open_ms, \
      "How long it stays open before the first probe; doubled at each failed one.") \
    R("auth.lane.breaker", "open_max", DURATION, "10min", 100, 1 DAY, NULL, RELOAD, auth.lane.breaker_open_max_ms, \
      "The longest it stays open before a probe; at least open.") \
    R("auth.lane.breaker", "error_rate", FLOAT, "0.5", 0.01, 1, NULL, RELOAD, auth.lane.breaker_error_rate, \
      "Share of failures among the attempts of the last 30 seconds that opens it as well.") \
    R("auth.lane.breaker", "min_attempts", INT, "20", 1, 1000000, NULL, RELOAD, auth.lane.breaker_min_attempts, \
      "Attempts of the last 30 seconds below which their failures' share does not count.") \
    R("stt", "models", LIST, "dg-nova-3", 1, 16, NULL, RELOAD, stt.models, \
      "Speech-to-text models in the order of preference; the first that serves the language is used.") \
    R("stt", "replay", DURATION, "30s", 0, 5 MIN, NULL, RELOAD, stt.replay_ms, \
      "Audio without a transcript yet that is kept for a reconnect; 0s keeps none.") \
    R("stt", "catch_up", FLOAT, "4", 1, 100, NULL, RELOAD, stt.catch_up, \
      "How many times faster than real time kept audio is replayed.") \
    R("stt", "stall", DURATION, "10s", 100, 5 MIN, NULL, RELOAD, stt.stall_ms, \
      "A provider that falls so far behind while audio waits for it is lost: its stream is opened again, then the next " \
      "one is asked.") \
    R("stt", "gate", ENUM, "off", 0, 0, "off|shadow|active", RELOAD, stt.gate, \
      "Whether silence is kept from speech-to-text: off sends everything, shadow decides and counts and sends " \
      "everything, active withholds. Needs a plugin for voice activity, such as vad.") \
    R("stt", "gate_threshold", FLOAT, "0.65", 0, 1, NULL, RELOAD, stt.gate_threshold, \
      "The probability of speech above which audio counts as speech.") \
    R("stt", "gate_preroll", DURATION, "300ms", 0, 5 SEC, NULL, RELOAD, stt.gate_preroll_ms, \
      "Audio before the beginning of speech that is sent with it.") \
    R("stt", "gate_hangover", DURATION, "4s", 0, 1 MIN, NULL, RELOAD, stt.gate_hangover_ms, \
      "How long audio is sent on after the last speech.") \
    R("stt", "gate_finalize", DURATION, "300ms", 0, 1 MIN, NULL, RELOAD, stt.gate_finalize_ms, \
      "Silence after which the results of what was said are asked for; at most gate_hangover.") \
    R("speakers", "threshold", FLOAT, "0.45", 0.01, 1.99, NULL, RELOAD, speakers.threshold, \
      "The cosine distance between two voices below which they are taken for one; the smallest wins.") \
    R("speakers", "memory", SIZE, "256MiB", 1 MIB, 64 GIB, NULL, RELOAD, speakers.memory, \
      "Audio kept for all sessions to compare voices, and for samples. Without room a session recognises nobody " \
      "new.") \
    R("speakers", "voices", SIZE, "4MiB", 64 KIB, 1 GIB, NULL, RELOAD, speakers.voices, \
      "What is kept in memory of the voices that one user's speakers are compared with; the newest are preferred.") \
    R("speakers", "ring", DURATION, "60s", 5 SEC, 5 MIN, NULL, RELOAD, speakers.ring_ms, \
      "The newest audio of a session that is kept to compare voices, while there is anybody to compare with or a " \
      "speaker without a name.") \
    R("speakers", "min_speech", DURATION, "2s", 500, 1 MIN, NULL, RELOAD, speakers.min_speech_ms, \
      "The shortest segment whose voice is compared; and the least speech in an uploaded profile.") \
    R("speakers", "max_speech", DURATION, "10s", 1 SEC, 1 MIN, NULL, RELOAD, speakers.max_speech_ms, \
      "Of a longer segment this much is taken, from its middle; at least min_speech.") \
    R("speakers", "timeout", DURATION, "30s", 100, 5 MIN, NULL, RELOAD, speakers.timeout_ms, \
      "How long the answer for one voice is waited for.") \
    R("speakers", "attempts", INT, "3", 1, 100, NULL, RELOAD, speakers.attempts, \
      "Segments of one speaker of a session whose voice is compared before that speaker stays unknown.") \
    R("speakers", "sample_age", DURATION, "120s", 0, 1 HOUR, NULL, RELOAD, speakers.sample_age_ms, \
      "A sample of the voice of a speaker whom the user has named is taken when it is this old, or when the " \
      "daemon stops: until then the user may think better of it.") \
    R("speakers", "sample_check", DURATION, "15s", 50, 10 MIN, NULL, RELOAD, speakers.sample_check_ms, \
      "Interval at which samples are looked for that are due.") \
    R("speakers", "sample_retry", DURATION, "1min", 50, 1 HOUR, NULL, RELOAD, speakers.sample_retry_ms, \
      "Pause after the first failed attempt to take a sample; doubled with each further one, up to 6h.") \
    R("speakers", "sample_attempts", INT, "12", 1, 1000, NULL, RELOAD, speakers.sample_attempts, \
      "Attempts after which a sample is given up.") \
    R("speakers", "sample_give_up", DURATION, "7d", 1 SEC, 30 DAY, NULL, RELOAD, speakers.sample_give_up_ms, \
      "Age at which a sample is given up with its next failed attempt.") \
    R("speakers", "sample_drain", DURATION, "5s", 0, 10 MIN, NULL, RELOAD, speakers.sample_drain_ms, \
      "How long samples are taken for when the daemon stops; what is left is taken after the next start.") \
    R("speakers", "profile_min", DURATION, "5s", 500, 10 MIN, NULL, RELOAD, speakers.profile_min_ms, \
      "The shortest recording that is taken as a voice profile.") \
    R("speakers", "profile_max", DURATION, "2min", 1 SEC, 30 MIN, NULL, RELOAD, speakers.profile_max_ms, \
      "The longest; at least profile_min.") \
    R("speakers", "profile_scan", DURATION, "20s", 100, 5 MIN, NULL, RELOAD, speakers.profile_scan_ms, \
      "How long speech is looked for in an uploaded profile; then once more, by the local engine.") \
    R("store", "flush", DURATION, "1s", 10, 1 MIN, NULL, RELOAD, store.flush_ms, \
      "Interval at which changed segments go to disk: what a crash can lose.") \
    R("store", "commit", DURATION, "5ms", 1, 1 SEC, NULL, 0, store.commit_ms, \
      "The longest time a write waits for others to share its commit.") \
    R("store", "sweep", DURATION, "5s", 50, 10 MIN, NULL, RELOAD, store.sweep_ms, \
      "Interval at which conversations without a session are looked for whose timeout has passed.") \
    R("registry", "max_apps", INT, "1000", 1, 100000, NULL, RELOAD, registry.max_apps, \
      "Apps that may be registered.") \
    R("registry", "max_webhooks", INT, "100000", 1, 1000000, NULL, RELOAD, registry.max_webhooks, \
      "Developer webhooks that may be registered, of all users.") \
    R("registry", "max_enabled", INT, "1000000", 1, 10000000, NULL, RELOAD, registry.max_enabled, \
      "Apps that may be enabled for a user, counted over all users.") \
    R("registry", "webhook_failures", INT, "100", 1, 1000000, NULL, RELOAD, registry.webhook_failures, \
      "A developer webhook is disabled when so many attempts in a row have failed.") \
    R("registry", "app_failing", DURATION, "72h", 1 SEC, 365 DAY, NULL, RELOAD, registry.app_failing_ms, \
      "An app is disabled by the first failure that comes so long after the first of an unbroken row of them.") \
    R("registry", "secret_overlap", DURATION, "24h", 0, 30 DAY, NULL, RELOAD, registry.secret_overlap_ms, \
      "How long deliveries are signed with the former secret, too, after a new one was made.") \
    R("registry", "flush", DURATION, "5s", 10, 10 MIN, NULL, RELOAD, registry.flush_ms, \
      "Interval at which counted failures go to disk: what a crash can lose.") \
    R("registry", "setup_check", DURATION, "10s", 100, 50 SEC, NULL, RELOAD, registry.setup_check_ms, \
      "How long an app's answer is waited for whether it is set up for a user.") \
    R("registry", "test", DURATION, "35s", 100, 50 SEC, NULL, RELOAD, registry.test_ms, \
      "How long a test delivery that was asked for is waited for.") \
    R("processing", "at_once", INT, "64", 1, 10000, NULL, RELOAD, processing.at_once, \
      "Conversations of one reactor whose end is worked on at once; the others wait in order.") \
    R("processing", "waiting", INT, "10000", 1, 1000000, NULL, RELOAD, processing.waiting, \
      "Conversations of one reactor that wait for it; those beyond are left to the sweeper.") \
    R("processing", "attempts", INT, "20", 1, 1000, NULL, RELOAD, processing.attempts, \
      "How often the end of a conversation is tried; after so many failures it is kept as failed, with the error.") \
    R("processing", "retry", DURATION, "1s", 10, 1 HOUR, NULL, RELOAD, processing.retry_ms, \
      "The pause after the first failure; doubled at each further one and varied by a fifth at random.") \
    R("processing", "retry_max", DURATION, "5min", 10, 1 DAY, NULL, RELOAD, processing.retry_max_ms, \
      "The longest pause; at least retry.") \
    R("processing", "summary_attempts", INT, "3", 1, 1000, NULL, RELOAD, processing.summary_attempts, \
      "How often a plugin is asked for a conversation's summary before the local one is made; at most attempts.") \
    R("processing", "summary_timeout", DURATION, "2min", 10, 1 HOUR, NULL, RELOAD, processing.summary_timeout_ms, \
      "The longest wait for a plugin's summary; then the local one is made.") \
    R("day_summary", "enabled", BOOL, "false", 0, 0, NULL, RELOAD, day_summary.enabled, \
      "Whether each user's day is summarised without being asked for, unless the user says otherwise.") \
    R("day_summary", "at", STRING, "22:00", 5, 5, NULL, RELOAD, day_summary.at, \
      "The local time of it, as HH:MM, unless the user says otherwise; 00:00 is the end of the day.") \
    R("day_summary", "timezone", STRING, "UTC", 1, 64, NULL, RELOAD, day_summary.timezone, \
      "The time zone of users who have not named theirs, as in the tz database.") \
    R("day_summary", "check", DURATION, "30s", 50, 1 HOUR, NULL, RELOAD, day_summary.check_ms, \
      "Interval at which days that are due are looked for.") \
    R("day_summary", "at_once", INT, "8", 1, 1000, NULL, RELOAD, day_summary.at_once, \
      "Days that are summarised at once.") \
    R("day_summary", "attempts", INT, "10", 1, 1000, NULL, RELOAD, day_summary.attempts, \
      "How often a day is tried; the pauses are those of processing.") \
    R("day_summary", "keep", DURATION, "90d", 1 DAY, 3650 DAY, NULL, RELOAD, day_summary.keep_ms, \
      "How long the summaries of days are kept.") \
    R("queue", "commit", DURATION, "5ms", 1, 1 SEC, NULL, 0, queue.commit_ms, \
      "The longest time a job waits for others to share its commit.") \
    R("queue", "lease", DURATION, "60s", 1 SEC, 1 HOUR, NULL, 0, queue.lease_ms, \
      "A job whose attempt has not ended within this time is offered again.") \
    R("queue", "in_flight", INT, "1024", 1, 10000, NULL, 0, queue.in_flight, \
      "Attempts under way at once.") \
    R("queue", "in_flight_per_target", INT, "64", 1, 10000, NULL, 0, queue.in_flight_per_target, \
      "Attempts under way at once for one target, at most in_flight.") \
    R("queue", "max_jobs", INT, "1000000", 1, 1e9, NULL, 0, queue.max_jobs, \
      "Jobs that wait or are under way; beyond it new ones are refused.") \
    R("queue", "max_bytes", SIZE, "4GiB", 1 MIB, 1024 GIB, NULL, 0, queue.max_bytes, \
      "Payload of the jobs that wait or are under way; beyond it new ones are refused. Dead letters keep as much again.") \
    R("queue", "max_share", FLOAT, "0.5", 0.001, 1, NULL, 0, queue.max_share, \
      "Share of max_jobs and of max_bytes, less what is there for others, that is kept for one target at most; 1: no bound.") \
    R("queue", "retry", LIST, "5s,5min,30min,2h,5h,10h,10h", 1, 32, NULL, 0, queue.retry, \
      "Pauses between one attempt and the next, each 1s to 30d; a job that fails after the last is a dead letter.") \
    R("queue", "jitter", FLOAT, "0.2", 0, 0.5, NULL, 0, queue.jitter, \
      "Share by which a pause is varied at random: 0.2 is 20 % either way.") \
    R("queue", "dead", INT, "100000", 1, 1e8, NULL, 0, queue.dead, \
      "Dead letters kept; beyond it the oldest are dropped.") \
    R("queue", "dead_keep", DURATION, "30d", 1 MIN, 3650 DAY, NULL, 0, queue.dead_keep_ms, \
      "Dead letters older than this are dropped.") \
    R("queue", "attempts", INT, "100000", 0, 1e8, NULL, 0, queue.attempts, \
      "Attempts kept in the log of deliveries; 0: none.") \
    R("queue", "attempts_keep", DURATION, "3d", 1 MIN, 3650 DAY, NULL, 0, queue.attempts_keep_ms, \
      "Attempts older than this are dropped from the log of deliveries.") \
    R("queue", "replay_rate", INT, "100", 1, 100000, NULL, 0, queue.replay_rate, \
      "Dead letters a second that a replay of many brings back at most.") \
    R("exec", "critical", INT, "8", 1, 256, NULL, 0, exec.critical, \
      "Threads for conversation processing and other critical work.") \
    R("exec", "storage", INT, "4", 1, 256, NULL, 0, exec.storage, \
      "Threads for files, uploads and reads of the store.") \
    R("exec", "blocking", INT, "64", 1, 1024, NULL, 0, exec.blocking, \
      "Threads for plugins' blocking work. A number out of range is clamped and an unreadable value replaced by " \
      "the default, each with a warning.") \
    R("exec", "queue", INT, "1024", 4, 1000000, NULL, 0, exec.queue, \
      "Jobs that wait, per pool; one plugin may fill a quarter of it.") \
    N("app", "name", STRING, NULL, 1, 128, NULL, RELOAD, \
      "What users know it by.") \
    N("app", "uid", STRING, NULL, 1, 128, NULL, RELOAD, \
      "Its owner, who is told when it is disabled.") \
    N("app", "url", STRING, NULL, 1, 2048, NULL, RELOAD | OMID_OPT_REQUIRED, \
      "Where deliveries go, http or https.") \
    N("app", "setup_completed_url", STRING, NULL, 1, 2048, NULL, RELOAD, \
      "What is asked before it is enabled for a user whether it is set up for them.") \
    N("app", "triggers", LIST, NULL, 1, 8, NULL, RELOAD, \
      "What it is told about: memory_creation, transcript_processed, audio_bytes.") \
    EVENT_ROWS(N, "app", OWN) \
    N("app", "capabilities", LIST, NULL, 1, 8, NULL, RELOAD, \
      "What its answers may do: proactive_notification.") \
    DELIVERY_ROWS(N, "app", OWN) \
    N("app", "enabled", BOOL, "true", 0, 0, NULL, RELOAD, \
      "Whether it is enabled as a whole. For which users it is says the admin API.") \
    N("app", "secret", SECRET, NULL, 6, 96, NULL, RELOAD, \
      "What deliveries are signed with: whsec_ and the base64 of 24 to 64 bytes. None: one is made.") \
    N("webhook", "uid", STRING, NULL, 1, 128, NULL, RELOAD | OMID_OPT_REQUIRED, \
      "The user whose events are delivered.") \
    N("webhook", "url", STRING, NULL, 1, 2048, NULL, RELOAD | OMID_OPT_REQUIRED, \
      "Where deliveries go, http or https.") \
    N("webhook", "triggers", LIST, NULL, 1, 8, NULL, RELOAD, \
      "What it is told about: realtime_transcript, audio_bytes, memory_created, day_summary.") \
    EVENT_ROWS(N, "webhook", AS_IN_APP) \
    DELIVERY_ROWS(N, "webhook", AS_IN_APP) \
    N("webhook", "enabled", BOOL, "true", 0, 0, NULL, RELOAD, \
      "Whether it is enabled.") \
    N("webhook", "secret", SECRET, NULL, 6, 96, NULL, RELOAD, \
      "As in the app block.") \
    N("plugin", "path", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "The shared object; without a slash it lies in daemon.plugin_dir. Default: plugin_dir/NAME.so.") \
    N("plugin", "required", BOOL, "false", 0, 0, NULL, RELOAD, \
      "Whether the daemon refuses to run without this plugin. Otherwise it runs, and says so.") \
    L("plugin", "pool", INT, "100", 1, 4096, NULL, RELOAD, pool, \
      "Connections of the lane, at least semaphore.") \
    L("plugin", "idle", INT, "20", 0, 4096, NULL, RELOAD, idle, \
      "Connections kept open while unused, at most pool.") \
    L("plugin", "semaphore", INT, "100", 1, 4096, NULL, RELOAD, semaphore, \
      "Requests and WebSocket handshakes in flight at once.") \
    L("plugin", "streams", INT, "4096", 1, 1000000, NULL, RELOAD, streams, \
      "Open outgoing WebSockets.") \
    L("plugin", "queue", INT, "1024", 1, 1000000, NULL, RELOAD, queue, \
      "Requests that wait for the semaphore; one target may hold a quarter of it, one scheme, host and port half. Beyond it requests are refused at once.") \
    L("plugin", "connect_timeout", DURATION, "2s", 10, 5 MIN, NULL, RELOAD, connect_timeout_ms, \
      "The longest time for a connection, TLS included; at most timeout.") \
    L("plugin", "timeout", DURATION, "15s", 10, 1 HOUR, NULL, RELOAD, timeout_ms, \
      "The longest time for a whole request, absolute: a peer that drips doesn't extend it.") \
    L("plugin", "queue_timeout", DURATION, "30s", 10, 1 HOUR, NULL, RELOAD, queue_timeout_ms, \
      "The longest wait for the semaphore.") \
    L("plugin", "follow", INT, "0", 0, CONF_MAX_FOLLOW, NULL, RELOAD, follow, \
      "Redirects that one request follows, each checked as if it had been asked for; 0: a 3xx is the answer.") \
    N("plugin", "proxy", STRING, NULL, 1, 300, NULL, RELOAD, \
      "HTTP proxy, as http://HOST:PORT, that requests and WebSockets go through; none: directly. The environment's is " \
      "never used.") \
    N("plugin", "proxy_auth", SECRET, NULL, 2, 512, NULL, RELOAD, \
      "USER:PASSWORD for the proxy.") \
    N("plugin", "allow_private", LIST, NULL, 0, CONF_MAX_PRIVATE, NULL, RELOAD, \
      "Addresses and networks (10.0.0.0/8, fd00::/8) that URLs registered by users may lead to, though they are not " \
      "public; none given opens none.") \
    N("plugin.tls", "certificate", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "PEM file of the client's certificate, with its chain, that is shown to peers over TLS that ask for one.") \
    N("plugin.tls", "key", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "PEM file of that certificate's private key, without a passphrase.") \
    N("plugin.tls", "ca", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "PEM file of the authorities that may sign for peers, in place of the system's.") \
    BREAKER_ROWS(L, "plugin.breaker", OWN, OWN) \
    L("plugin.target", "connect_timeout", DURATION, NULL, 10, 5 MIN, NULL, RELOAD, connect_timeout_ms, \
      "As in the plugin block.") \
    L("plugin.target", "timeout", DURATION, NULL, 10, 1 HOUR, NULL, RELOAD, timeout_ms, \
      "As in the plugin block; may be longer than the lane's.") \
    L("plugin.target", "semaphore", INT, NULL, 1, 4096, NULL, RELOAD, semaphore, \
      "Requests and handshakes in flight at once to each of these targets, at most the lane's semaphore.") \
    L("plugin.target", "follow", INT, NULL, 0, CONF_MAX_FOLLOW, NULL, RELOAD, follow, \
      "As in the plugin block. That of the first target counts for the whole request.") \
    N("plugin.target", "proxy", STRING, NULL, 1, 300, NULL, RELOAD, \
      "As in the plugin block; none: directly, whatever the lane says.") \
    N("plugin.target", "proxy_auth", SECRET, NULL, 2, 512, NULL, RELOAD, \
      "USER:PASSWORD for this block's proxy.") \
    BREAKER_ROWS(L, "plugin.target.breaker", INHERITED, AS_IN_BREAKER) \
    N("plugin.target.tls", "certificate", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "As in plugin.tls; with it, key.") \
    N("plugin.target.tls", "key", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "As in plugin.tls.") \
    N("plugin.target.tls", "ca", STRING, NULL, 1, 4000, NULL, RELOAD, \
      "As in plugin.tls.")

#define ENTRY(sec, key, kind, deflt, lo, hi, among, flag, text) \
    {.section = (sec), .option = {.name = (key), .type = OMID_OPT_##kind, .def = (deflt), .min = (lo), .max = (hi), \
                                  .choices = (among), .flags = (flag), .help = (text)}},
#define ENTRY_MEMBER(sec, key, kind, deflt, lo, hi, among, flag, member, text) \
    ENTRY(sec, key, kind, deflt, lo, hi, among, flag, text)
#define FIELD_OF(type, member) \
    {offsetof(type, member), _Generic(((type *)0)->member, \
         bool: FIELD_BOOL, unsigned: FIELD_UINT, uint64_t: FIELD_U64, double: FIELD_DOUBLE, \
         char *: FIELD_STR, struct conf_list: FIELD_LIST)},
#define FIELD_CONF(sec, key, kind, deflt, lo, hi, among, flag, member, text) FIELD_OF(struct conf, member)
#define FIELD_LANE(sec, key, kind, deflt, lo, hi, among, flag, member, text) FIELD_OF(struct conf_lane, member)
#define FIELD_WITHOUT(sec, key, kind, deflt, lo, hi, among, flag, text) {0, FIELD_NONE},

static const struct conf_entry entries[] = {CONF_ROWS(ENTRY_MEMBER, ENTRY_MEMBER, ENTRY){.section = NULL}};
static const struct conf_field fields[] = {CONF_ROWS(FIELD_CONF, FIELD_LANE, FIELD_WITHOUT){0, FIELD_NONE}};
/* clang-format on */

const struct conf_entry *conf_table(void)
{
    return entries;
}

const struct conf_field *conf_fields(void)
{
    return fields;
}

bool conf_is_section(const char *path)
{
    for (const struct conf_entry *e = entries; e->section; e++) {
        if (strcmp(e->section, path) == 0)
            return true;
    }
    return false;
}

static const char *const blocks[] = {"plugin", "app", "webhook"};

bool conf_in_block(const char *path)
{
    size_t n = strcspn(path, ".");
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        if (strlen(blocks[i]) == n && strncmp(blocks[i], path, n) == 0)
            return true;
    }
    return false;
}

bool conf_is_block(const char *path)
{
    return strchr(path, '.') == NULL && conf_in_block(path);
}

bool option_named(const struct omid_option *option, const char *key)
{
    size_t n = strlen(option->name);
    if (strncmp(option->name, key, n) != 0)
        return false;
    return key[n] == '\0' || (option->type == OMID_OPT_SECRET && strcmp(key + n, "_file") == 0);
}

const struct conf_entry *conf_entry_find(const char *path, const char *key)
{
    for (const struct conf_entry *e = entries; e->section; e++) {
        if (strcmp(e->section, path) == 0 && option_named(&e->option, key))
            return e;
    }
    return NULL;
}
