#include "base/magic.h"
#include "store/store_int.h"

/* Version 1. Times are Unix ms. status as enum store_status: the numbers are part of the file's format. n, the row's
 * number, is what other tables refer to; ids are for the outside. */
static const char v1[] =
    "CREATE TABLE conversation(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL,"
    " language TEXT NOT NULL, source TEXT NOT NULL, status INTEGER NOT NULL, created INTEGER NOT NULL,"
    " started INTEGER NOT NULL, finished INTEGER NOT NULL, timeout INTEGER NOT NULL, structured TEXT, error TEXT);"
    "CREATE INDEX conversation_status ON conversation(status);"
    "CREATE INDEX conversation_of_uid ON conversation(uid, created);"
    "CREATE INDEX conversation_open ON conversation(uid) WHERE status = 0;"
    "CREATE INDEX conversation_ends ON conversation(finished + timeout) WHERE status = 0;"
    "CREATE TABLE segment(n INTEGER PRIMARY KEY, conversation INTEGER NOT NULL REFERENCES conversation(n) ON DELETE "
    "CASCADE,"
    " id TEXT NOT NULL, text TEXT NOT NULL, speaker TEXT NOT NULL, speaker_id INTEGER NOT NULL, is_user INTEGER NOT "
    "NULL,"
    " person_id TEXT, stt_provider TEXT, start REAL NOT NULL, \"end\" REAL NOT NULL, UNIQUE(conversation, id));";

/* Version 2. Photos as they are, not in base64. A speaker's row without person is the owner. A speaker sample's
 * segments are a JSON array of ids; its status: 0 waits, 1 taken, 2 given up. */
static const char v2[] =
    "ALTER TABLE conversation ADD COLUMN call_id TEXT;"
    "CREATE INDEX conversation_completed ON conversation(uid, finished) WHERE status = 2;"
    "CREATE TABLE photo(n INTEGER PRIMARY KEY, conversation INTEGER NOT NULL REFERENCES conversation(n) ON DELETE "
    "CASCADE,"
    " id TEXT NOT NULL, created INTEGER NOT NULL, description TEXT NOT NULL, discarded INTEGER NOT NULL,"
    " data BLOB NOT NULL, UNIQUE(conversation, id));"
    "CREATE TABLE message(n INTEGER PRIMARY KEY, conversation INTEGER NOT NULL REFERENCES conversation(n) ON DELETE "
    "CASCADE,"
    " id TEXT NOT NULL, created INTEGER NOT NULL, app_id TEXT NOT NULL, app_name TEXT NOT NULL, text TEXT NOT NULL,"
    " UNIQUE(conversation, id));"
    "CREATE TABLE speaker(conversation INTEGER NOT NULL REFERENCES conversation(n) ON DELETE CASCADE,"
    " speaker_id INTEGER NOT NULL, person_id TEXT, PRIMARY KEY(conversation, speaker_id)) WITHOUT ROWID;"
    "CREATE TABLE person(n INTEGER PRIMARY KEY, uid TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL,"
    " created INTEGER NOT NULL, UNIQUE(uid, id));"
    "CREATE TABLE speaker_sample(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL,"
    " conversation INTEGER NOT NULL REFERENCES conversation(n) ON DELETE CASCADE, person_id TEXT NOT NULL,"
    " speaker_id INTEGER NOT NULL, segments TEXT NOT NULL, created INTEGER NOT NULL, status INTEGER NOT NULL);"
    "CREATE INDEX speaker_sample_of ON speaker_sample(conversation);"
    "CREATE INDEX speaker_sample_waits ON speaker_sample(created) WHERE status = 0;";

/* Version 3: apps and developer webhooks. An app's uid is its owner's. disabled: when, 0 if it is not. failures and
 * failing_since: of the run under way. seed: a hash of the configuration's block that it came from. A secret's
 * valid_until: 0 as long as it is the newest. */
static const char v3[] =
    "CREATE TABLE endpoint(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, app INTEGER NOT NULL, uid TEXT NOT NULL,"
    " name TEXT NOT NULL, url TEXT NOT NULL, setup_url TEXT NOT NULL, triggers INTEGER NOT NULL,"
    " capabilities INTEGER NOT NULL, events TEXT NOT NULL, filter TEXT NOT NULL, audio_ms INTEGER NOT NULL,"
    " ordered INTEGER NOT NULL, rate INTEGER NOT NULL, created INTEGER NOT NULL, changed INTEGER NOT NULL,"
    " disabled INTEGER NOT NULL, disabled_reason TEXT NOT NULL, failures INTEGER NOT NULL,"
    " failing_since INTEGER NOT NULL, seed TEXT NOT NULL);"
    "CREATE INDEX endpoint_of_uid ON endpoint(uid) WHERE app = 0;"
    "CREATE TABLE endpoint_user(endpoint INTEGER NOT NULL REFERENCES endpoint(n) ON DELETE CASCADE, uid TEXT NOT NULL,"
    " PRIMARY KEY(endpoint, uid)) WITHOUT ROWID;"
    "CREATE INDEX endpoint_user_of ON endpoint_user(uid);"
    "CREATE TABLE endpoint_secret(n INTEGER PRIMARY KEY, endpoint INTEGER NOT NULL REFERENCES endpoint(n) ON DELETE "
    "CASCADE, secret TEXT NOT NULL, created INTEGER NOT NULL, valid_until INTEGER NOT NULL);"
    "CREATE INDEX endpoint_secret_of ON endpoint_secret(endpoint);";

/* Version 4: plugins' own values. size: bytes of key and data. expires: Unix ms, 0 never. */
static const char v4[] =
    "CREATE TABLE value(owner TEXT NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL, expires INTEGER NOT NULL,"
    " size INTEGER NOT NULL, PRIMARY KEY(owner, key)) WITHOUT ROWID;"
    "CREATE INDEX value_expires ON value(expires) WHERE expires > 0;"
    "CREATE TABLE value_owner(owner TEXT NOT NULL PRIMARY KEY, n INTEGER NOT NULL, bytes INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE TRIGGER value_added AFTER INSERT ON value BEGIN INSERT INTO value_owner VALUES(new.owner, 1, new.size)"
    " ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes; END;"
    "CREATE TRIGGER value_changed AFTER UPDATE ON value BEGIN UPDATE value_owner SET"
    " bytes = bytes + new.size - old.size WHERE owner = new.owner; END;"
    "CREATE TRIGGER value_removed AFTER DELETE ON value BEGIN UPDATE value_owner SET n = n - 1,"
    " bytes = bytes - old.size WHERE owner = old.owner; END;";

/* Version 5: voices. A voice's person is one of the uid's, or "user": the owner; kind 0 a sample, 1 the profile that
 * the owner has uploaded; vector: floats, little-endian. Of a sample that waits: attempts that have failed, when the
 * next is due, why the last one failed. */
static const char v5[] =
    "CREATE TABLE voice(n INTEGER PRIMARY KEY, uid TEXT NOT NULL, person_id TEXT NOT NULL, kind INTEGER NOT NULL,"
    " created INTEGER NOT NULL, seconds REAL NOT NULL, vector BLOB NOT NULL);"
    "CREATE INDEX voice_of ON voice(uid, person_id, kind);"
    "ALTER TABLE speaker_sample ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE speaker_sample ADD COLUMN due INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE speaker_sample ADD COLUMN error TEXT;";

/* Version 6: where users are; a conversation's geolocation is JSON. */
static const char v6[] =
    "CREATE TABLE place(uid TEXT NOT NULL PRIMARY KEY, latitude REAL NOT NULL, longitude REAL NOT NULL,"
    " updated INTEGER NOT NULL) WITHOUT ROWID;"
    "ALTER TABLE conversation ADD COLUMN geolocation TEXT;";

/* Version 7: recordings made offline. status: enum recording_status; stored: nothing is left to be done for it. */
static const char v7[] =
    "CREATE TABLE upload(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, created INTEGER NOT NULL);"
    "CREATE INDEX upload_age ON upload(created);"
    "CREATE TABLE recording(n INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, hash TEXT NOT NULL,"
    " format INTEGER NOT NULL, start INTEGER NOT NULL, language TEXT NOT NULL, created INTEGER NOT NULL,"
    " status INTEGER NOT NULL, attempts INTEGER NOT NULL, not_before INTEGER NOT NULL, progress REAL NOT NULL,"
    " seconds REAL NOT NULL, stored INTEGER NOT NULL, error TEXT, conversations TEXT);"
    "CREATE INDEX recording_due ON recording(not_before) WHERE stored = 0;"
    "CREATE INDEX recording_of_uid ON recording(uid) WHERE stored = 0;"
    "CREATE INDEX recording_age ON recording(created);"
    "CREATE TABLE upload_file(upload INTEGER NOT NULL REFERENCES upload(n) ON DELETE CASCADE, at INTEGER NOT NULL,"
    " name TEXT NOT NULL, recording INTEGER NOT NULL REFERENCES recording(n), again INTEGER NOT NULL,"
    " PRIMARY KEY(upload, at)) WITHOUT ROWID;"
    "CREATE INDEX upload_file_of ON upload_file(recording);";

/* Version 8: what the steps of a conversation's end have made, while it is processed; the days' summaries. In a plan
 * NULL is what the configuration says; next is when to look at it. A day summary's status: 0 under way, 1 sent. */
static const char v8[] =
    "CREATE TABLE process(conversation INTEGER PRIMARY KEY REFERENCES conversation(n) ON DELETE CASCADE,"
    " failures INTEGER NOT NULL DEFAULT 0, summary TEXT);"
    "CREATE TRIGGER process_over AFTER UPDATE OF status ON conversation WHEN NEW.status NOT IN (0, 1)"
    " BEGIN DELETE FROM process WHERE conversation = NEW.n; END;"
    "CREATE TABLE day_plan(uid TEXT PRIMARY KEY, timezone TEXT, at INTEGER, enabled INTEGER, next INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE INDEX day_plan_next ON day_plan(next);"
    "CREATE TABLE day_summary(uid TEXT NOT NULL, date TEXT NOT NULL, timezone TEXT NOT NULL, created INTEGER NOT NULL,"
    " status INTEGER NOT NULL, summary TEXT, PRIMARY KEY(uid, date)) WITHOUT ROWID;"
    "CREATE INDEX day_summary_made ON day_summary(created);"
    "CREATE INDEX day_summary_open ON day_summary(created) WHERE status = 0;";

/* Version 9: conversations that are deleted, until that has been told for good. */
static const char v9[] = "CREATE TABLE deleted(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL);"
                         "CREATE TRIGGER conversation_deleted AFTER DELETE ON conversation"
                         " BEGIN INSERT OR IGNORE INTO deleted(id, uid) VALUES(old.id, old.uid); END;";

/* Version 10: day is the date of the summary that a conversation is in, NULL: of none so far. What ended before a
 * plan's since is in none either; what there was before this version counts as told. A day summary's until: of one on
 * the schedule, the moment before which what it holds began, 0: it was asked for, and holds a calendar day. */
static const char v10[] =
    "ALTER TABLE conversation ADD COLUMN day TEXT;"
    "CREATE INDEX conversation_untold ON conversation(uid, finished) WHERE status = 2 AND day IS NULL;"
    "ALTER TABLE day_plan ADD COLUMN since INTEGER NOT NULL DEFAULT 0;"
    "UPDATE day_plan SET since = max(unixepoch('now', '-1 day') * 1000,"
    " ifnull((SELECT max(created) FROM day_summary AS s WHERE s.uid = day_plan.uid), 0));"
    "ALTER TABLE day_summary ADD COLUMN until INTEGER NOT NULL DEFAULT 0;";

/* Version 11: endpoints that were disabled because they kept failing, until their users have been told for good. */
static const char v11[] =
    "CREATE TABLE endpoint_disabled(id TEXT NOT NULL, at INTEGER NOT NULL, uid TEXT NOT NULL, url TEXT NOT NULL,"
    " app INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(id, at)) WITHOUT ROWID;";

/* Version 12: what is known of a recording's words while it is transcribed: recording.heard samples of it are, and what
 * was said in them, in seconds of the recording. One that has failed keeps it, should it be sent again. And how often
 * recordings have joined a conversation that was over. */
static const char v12[] =
    "ALTER TABLE recording ADD COLUMN heard INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE heard(n INTEGER PRIMARY KEY, recording INTEGER NOT NULL REFERENCES recording(n) ON DELETE CASCADE,"
    " text TEXT NOT NULL, speaker_id INTEGER NOT NULL, stt_provider TEXT NOT NULL, start REAL NOT NULL,"
    " \"end\" REAL NOT NULL);"
    "CREATE INDEX heard_of ON heard(recording);"
    "CREATE TRIGGER heard_over AFTER UPDATE OF status ON recording WHEN NEW.status IN (2, 3)"
    " BEGIN DELETE FROM heard WHERE recording = NEW.n; END;"
    "CREATE TRIGGER heard_otherwise AFTER UPDATE OF language, format ON recording"
    " WHEN NEW.language <> OLD.language OR NEW.format <> OLD.format"
    " BEGIN DELETE FROM heard WHERE recording = NEW.n; UPDATE recording SET heard = 0, progress = 0 WHERE n = NEW.n;"
    " END;"
    "ALTER TABLE conversation ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;";

/* Version 13: whose audio a segment was heard in; NULL: of several sessions, or not known. */
static const char v13[] = "ALTER TABLE segment ADD COLUMN session TEXT;";

const char *const store_migrations[] = {v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13};
const size_t store_n_migrations = ARRAY_LEN(store_migrations);

#define CONV_COLUMNS                                                                                          \
    "n, id, uid, language, source, status, created, started, finished, timeout, structured, error, call_id, " \
    "geolocation, revision"

#define ENDPOINT_COLUMNS                                                                                \
    "n, id, app, uid, name, url, setup_url, triggers, capabilities, events, filter, audio_ms, ordered," \
    " rate, created, changed, disabled, disabled_reason, seed, failures, failing_since"

const char *const store_statements[SS_STATEMENTS] = {
    [SS_CONV_INSERT] =
        "INSERT INTO conversation(id, uid, language, source, status, created, started, finished, timeout, call_id)"
        " VALUES(?1, ?2, ?3, ?4, 0, ?5, 0, ?5, ?6, ?7)",
    [SS_CONV_BY_ID] = "SELECT " CONV_COLUMNS " FROM conversation WHERE id = ?1",
    [SS_CONV_IN_PROGRESS] = "SELECT id, finished, timeout FROM conversation WHERE status = 0 AND uid = ?1"
                            " ORDER BY finished DESC, n DESC",
    [SS_CONV_RESUME] = "UPDATE conversation SET timeout = ?2 WHERE id = ?1",
    [SS_CONV_TIMES] =
        "UPDATE conversation SET started = iif(?2 = 0, started, ?2), finished = iif(?3 = 0, finished, ?3),"
        " timeout = iif(?4 = 0, timeout, ?4) WHERE n = ?1",
    [SS_CONV_STATUS] =
        "UPDATE conversation SET status = ?3, structured = ifnull(?4, structured), error = iif(?3 = 1, NULL,"
        " ifnull(?5, error)) WHERE id = ?1 AND status = ?2",
    [SS_CONV_STATUS_OF] = "SELECT status FROM conversation WHERE id = ?1 AND uid = ?2",
    [SS_CONV_DELETE] = "DELETE FROM conversation WHERE id = ?1 AND (?2 IS NULL OR uid = ?2) RETURNING status",
    [SS_DELETED] = "SELECT id, uid FROM deleted ORDER BY n LIMIT ?1",
    [SS_DELETED_FORGET] = "DELETE FROM deleted WHERE id = ?1",
    [SS_CONV_ROW] = "SELECT n, uid FROM conversation WHERE id = ?1",
    [SS_FIND_COMPLETED] =
        "SELECT id FROM conversation WHERE uid = ?1 AND status = 2 ORDER BY finished DESC, n DESC LIMIT 1",
    [SS_FIND_OPEN] =
        "SELECT id FROM conversation AS c WHERE uid = ?1 AND status = 0 AND"
        " (EXISTS(SELECT 1 FROM segment WHERE conversation = c.n) OR EXISTS(SELECT 1 FROM photo WHERE conversation ="
        " c.n)) ORDER BY finished DESC, n DESC LIMIT 1",
    [SS_LIST_FROM] = "SELECT created, n FROM conversation WHERE id = ?1 AND uid = ?2",
    [SS_LIST] = "SELECT id FROM conversation WHERE uid = ?1 AND (created, n) < (?2, ?3) AND (1 << status) & ?4"
                " ORDER BY created DESC, n DESC LIMIT ?5 OFFSET ?6",
    [SS_DUE_TIMEOUT] = "SELECT id, uid, status, n FROM conversation WHERE status = 0 AND finished + timeout <= ?1"
                       " ORDER BY finished + timeout LIMIT ?2",
    [SS_DUE_PROCESSING] =
        "SELECT id, uid, status, n FROM conversation WHERE status = 1 AND n > ?1 AND n <= ?2 ORDER BY n"
        " LIMIT ?3",
    [SS_SEG_SHIFT] = "UPDATE segment SET start = start + ?2, \"end\" = \"end\" + ?2 WHERE conversation = ?1",
    [SS_CONV_MADE] = "INSERT INTO conversation(id, uid, language, source, status, created, started, finished, timeout)"
                     " VALUES(?1, ?2, ?3, ?4, 1, ?5, ?5, ?6, ?7)",
    [SS_CONV_REVISED] = "UPDATE conversation SET revision = revision + 1 WHERE n = ?1",
    [SS_CONV_AROUND] = "SELECT n, id, status, started, finished FROM conversation WHERE uid = ?1 AND started > 0"
                       " AND finished > ?2 AND started < ?3 ORDER BY started LIMIT 1",
    [SS_UPLOAD_PUT] = "INSERT INTO upload(id, uid, created) VALUES(?1, ?2, ?3)",
    [SS_UPLOAD_FILE_PUT] = "INSERT INTO upload_file(upload, at, name, recording, again) VALUES(?1, ?2, ?3, ?4, ?5)",
    [SS_UPLOAD_FIND] = "SELECT n, created FROM upload WHERE id = ?1 AND uid = ?2",
    [SS_UPLOAD_FILES] =
        "SELECT f.name, r.hash, r.start, r.status, r.progress, r.seconds, r.error, r.conversations, f.again"
        " FROM upload_file f JOIN recording r ON r.n = f.recording WHERE f.upload = ?1 ORDER BY f.at",
    [SS_UPLOADS_FORGET] =
        "DELETE FROM upload WHERE n IN (SELECT n FROM upload WHERE created < ?1 ORDER BY created LIMIT ?2)",
    [SS_RECORDING_FIND] = "SELECT n, status FROM recording WHERE file = ?1",
    [SS_RECORDING_PUT] =
        "INSERT INTO recording(file, uid, hash, format, start, language, created, status, attempts, not_before,"
        " progress, seconds, stored) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, 0, 0, 0, 0)",
    [SS_RECORDING_AGAIN] = "UPDATE recording SET status = 0, attempts = 0, not_before = 0, stored = 0,"
                           " error = NULL, created = ?2, format = ?3, start = ?4, language = ?5 WHERE n = ?1",
    [SS_RECORDING_COUNT] = "SELECT count(*) FROM recording WHERE uid = ?1 AND stored = 0",
    [SS_RECORDINGS_DUE] = /* each uid's first ones before anybody's second ones; of the oldest, which bounds its time */
    "SELECT r.n, r.uid, r.language, r.file, r.format, r.start, r.status, r.attempts, r.conversations FROM (SELECT n,"
    " not_before, row_number() OVER (PARTITION BY uid ORDER BY not_before, n) AS nth FROM (SELECT n, uid, not_before"
    " FROM recording WHERE stored = 0 AND not_before <= ?1 ORDER BY not_before, n LIMIT 20000)"
    " ORDER BY nth, not_before, n LIMIT ?2) d JOIN recording r ON r.n = d.n ORDER BY d.nth, d.not_before, d.n",
    [SS_RECORDINGS_FORGET] =
        "DELETE FROM recording WHERE n IN (SELECT n FROM recording r WHERE created < ?1 AND stored = 1 AND"
        " NOT EXISTS(SELECT 1 FROM upload_file WHERE recording = r.n) ORDER BY created LIMIT ?2)",
    [SS_RECORDING_SET] =
        "UPDATE recording SET status = ?2, attempts = ?3, not_before = ?4, progress = max(progress, ?5),"
        " seconds = max(seconds, ?6), error = ?7, stored = ?8 WHERE n = ?1",
    [SS_RECORDING_OPEN] = "SELECT 1 FROM recording WHERE n = ?1 AND status <= 1",
    [SS_RECORDING_DONE] = "UPDATE recording SET status = 2, attempts = 0, not_before = 0, progress = 1, seconds = ?2,"
                          " conversations = ?3, error = NULL WHERE n = ?1",
    [SS_RECORDING_WANTS] = "SELECT 1 FROM recording WHERE file = ?1 AND stored = 0",
    [SS_HEARD_UNTIL] = "SELECT heard FROM recording WHERE n = ?1 AND status <= 1",
    [SS_HEARD_SET] = "UPDATE recording SET heard = ?2, progress = ?3 WHERE n = ?1",
    [SS_HEARD_PUT] = "INSERT INTO heard(recording, text, speaker_id, stt_provider, start, \"end\")"
                     " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [SS_HEARD_OF] = "SELECT text, speaker_id, stt_provider, start, \"end\" FROM heard WHERE recording = ?1 ORDER BY n",
    [SS_SEG_PUT] =
        "INSERT INTO segment(conversation, id, text, speaker, speaker_id, is_user, person_id, stt_provider, start,"
        " \"end\", session) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT(conversation, id) DO "
        "UPDATE SET"
        " text = excluded.text, speaker = excluded.speaker, speaker_id = excluded.speaker_id,"
        " is_user = excluded.is_user, person_id = excluded.person_id, stt_provider = excluded.stt_provider,"
        " start = excluded.start, \"end\" = excluded.\"end\", session = excluded.session",
    [SS_SEG_DELETE] = "DELETE FROM segment WHERE conversation = ?1 AND id = ?2",
    [SS_SEG_OF] = "SELECT g.id, text, speaker, speaker_id, is_user, person_id, stt_provider, start, \"end\", p.name,"
                  " session"
                  " FROM segment AS g JOIN conversation AS c ON c.n = g.conversation LEFT JOIN person AS p"
                  " ON p.uid = c.uid AND p.id = g.person_id WHERE g.conversation = ?1 ORDER BY start, g.n",
    [SS_PHOTO_PUT] =
        "INSERT INTO photo(conversation, id, created, description, discarded, data) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
        " ON CONFLICT(conversation, id) DO UPDATE SET description = excluded.description, discarded ="
        " excluded.discarded",
    [SS_PHOTO_OF] = "SELECT id, created, description, discarded, iif(?2, data, NULL) FROM photo WHERE conversation = ?1"
                    " ORDER BY n",
    [SS_MESSAGE_PUT] = "INSERT INTO message(conversation, id, created, app_id, app_name, text)"
                       " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE"
                       " (SELECT count(*) FROM message WHERE conversation = ?1) < ?7",
    [SS_MESSAGE_OF] = "SELECT id, created, app_id, app_name, text FROM message WHERE conversation = ?1 ORDER BY n",
    [SS_SPEAKER_PUT] = "INSERT INTO speaker(conversation, speaker_id, person_id) VALUES(?1, ?2, ?3)"
                       " ON CONFLICT DO UPDATE SET person_id = excluded.person_id",
    [SS_SPEAKER_OF] = "SELECT speaker_id, person_id FROM speaker WHERE conversation = ?1",
    [SS_PERSON_NAME] = "UPDATE person SET name = iif(?3 = '', name, ?3) WHERE uid = ?1 AND id = ?2",
    [SS_PERSON_PUT] = "INSERT INTO person(uid, id, name, created) SELECT ?1, ?2, ?3, ?4 WHERE"
                      " (SELECT count(*) FROM person WHERE uid = ?1) < ?5",
    [SS_DAY_PLANS_DUE] = "SELECT uid, timezone, at, enabled, next, since FROM day_plan WHERE next <= ?1 OR next > ?2"
                         " ORDER BY next LIMIT ?3",
    [SS_DAY_PLAN_OF] = "SELECT uid, timezone, at, enabled, next, since FROM day_plan WHERE uid = ?1",
    [SS_DAY_PLAN_SET] =
        "INSERT INTO day_plan(uid, timezone, at, enabled, next, since) VALUES(?1, ?2, ?3, ?4, 0, ?5)"
        " ON CONFLICT(uid) DO UPDATE SET timezone = ifnull(excluded.timezone, timezone), at = ifnull(excluded.at, at),"
        " enabled = ifnull(excluded.enabled, enabled), next = 0",
    [SS_DAY_PLAN_REPLACE] =
        "INSERT INTO day_plan(uid, timezone, at, enabled, next, since) VALUES(?1, ?2, ?3, ?4, 0, ?5)"
        " ON CONFLICT(uid) DO UPDATE SET timezone = excluded.timezone, at = excluded.at, enabled = excluded.enabled,"
        " next = 0",
    [SS_DAY_PLAN_NEXT] = "UPDATE day_plan SET next = ?2, since = max(since, ?3) WHERE uid = ?1",
    [SS_DAY_PLAN_TOUCH] = "INSERT OR IGNORE INTO day_plan(uid, next, since) VALUES(?1, 0, ?2)",
    [SS_DAY_PLANS_RESET] = "UPDATE day_plan SET next = 0",
    [SS_DAY_BEGIN] = "INSERT OR IGNORE INTO day_summary(uid, date, timezone, created, status, until)"
                     " VALUES(?1, ?2, ?3, ?4, 0, ?5)",
    [SS_DAY_OF] =
        "SELECT uid, date, timezone, created, status, summary, until FROM day_summary WHERE uid = ?1 AND date = ?2",
    [SS_DAY_KEEP] = "UPDATE day_summary SET summary = ?3 WHERE uid = ?1 AND date = ?2 AND status = 0",
    [SS_DAY_SENT] = "UPDATE day_summary SET status = 1 WHERE uid = ?1 AND date = ?2 AND status = 0",
    [SS_DAY_DROP] = "DELETE FROM day_summary WHERE uid = ?1 AND date = ?2 AND status = 0",
    [SS_DAY_TELL] = "UPDATE conversation SET day = ?2 WHERE uid = ?1 AND day IS NULL AND id IN"
                    " (SELECT value FROM json_each(?3))",
    [SS_DAY_UNTELL] = "UPDATE conversation SET day = NULL WHERE uid = ?1 AND day = ?2",
    [SS_DAYS_OPEN] = "SELECT uid, date, timezone, created, status, summary, until FROM day_summary WHERE status = 0"
                     " ORDER BY created LIMIT ?1",
    [SS_DAY_PRUNE] = "DELETE FROM day_summary WHERE (uid, date) IN"
                     " (SELECT uid, date FROM day_summary WHERE created < ?1 AND status = 1 LIMIT ?2)",
    [SS_DAY_CONVERSATIONS] = "SELECT id FROM conversation WHERE uid = ?1 AND status = 2 AND finished >= ?2 AND"
                             " iif(started = 0, created, started) >= ?2 AND iif(started = 0, created, started) < ?3"
                             " ORDER BY iif(started = 0, created, started), n LIMIT ?4",
    [SS_DAY_UNTOLD] = "SELECT id FROM conversation WHERE uid = ?1 AND status = 2 AND day IS NULL AND finished >= ?2"
                      " AND iif(started = 0, created, started) < ?3"
                      " ORDER BY iif(started = 0, created, started), n LIMIT ?4",
    [SS_PROCESS_OF] = "SELECT failures, summary FROM process WHERE conversation = ?1",
    [SS_PROCESS_FAILED] = "INSERT INTO process(conversation, failures) SELECT n, ?2 FROM conversation WHERE id = ?1 AND"
                          " status = 1 ON CONFLICT(conversation) DO UPDATE SET failures = excluded.failures",
    [SS_PROCESS_SUMMARY] = "INSERT INTO process(conversation, summary) SELECT n, ?2 FROM conversation WHERE id = ?1 AND"
                           " status = 1 ON CONFLICT(conversation) DO UPDATE SET summary = excluded.summary",
    [SS_SAMPLE_PUT] = "INSERT OR IGNORE INTO speaker_sample(id, uid, conversation, person_id, speaker_id, segments,"
                      " created, status) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
    [SS_ENDPOINT_ALL] = "SELECT " ENDPOINT_COLUMNS " FROM endpoint ORDER BY n",
    [SS_ENDPOINT_BY_ID] = "SELECT " ENDPOINT_COLUMNS " FROM endpoint WHERE id = ?1",
    [SS_ENDPOINT_ADD] =
        "INSERT INTO endpoint(id, app, uid, name, url, setup_url, triggers, capabilities, events, filter, audio_ms,"
        " ordered, rate, created, changed, disabled, disabled_reason, seed, failures, failing_since)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, 0, 0)",
    /* Another URL: what failed was the old one. Enabled again: it may fail as often again. */
    [SS_ENDPOINT_SET] =
        "UPDATE endpoint SET failures = iif(url = ?5 AND (disabled = 0 OR ?16 <> 0), failures, 0),"
        " failing_since = iif(url = ?5 AND (disabled = 0 OR ?16 <> 0), failing_since, 0), uid = ?3, name = ?4,"
        " url = ?5, setup_url = ?6, triggers = ?7, capabilities = ?8, events = ?9, filter = ?10, audio_ms = ?11,"
        " ordered = ?12, rate = ?13, changed = ?15, disabled = ?16, disabled_reason = ?17, seed = ?18"
        " WHERE id = ?1 AND app = ?2",
    [SS_ENDPOINT_DELETE] = "DELETE FROM endpoint WHERE id = ?1 AND app = ?2",
    [SS_ENDPOINT_ENABLE] = "UPDATE endpoint SET disabled = 0, disabled_reason = '', failures = 0, failing_since = 0,"
                           " changed = ?3 WHERE id = ?1 AND app = ?2",
    [SS_ENDPOINT_DISABLE] = "UPDATE endpoint SET disabled = ?2, disabled_reason = ?3, changed = ?2,"
                            " failures = ifnull(?4, failures) WHERE id = ?1 AND disabled = 0",
    [SS_DISABLED_PUT] = "INSERT OR REPLACE INTO endpoint_disabled(id, at, uid, url, app, reason)"
                        " SELECT id, ?2, uid, url, app, ?3 FROM endpoint WHERE id = ?1 AND uid <> ''",
    [SS_DISABLED] = "SELECT id, at, uid, url, app, reason FROM endpoint_disabled LIMIT ?1",
    [SS_DISABLED_FORGET] = "DELETE FROM endpoint_disabled WHERE id = ?1 AND at = ?2",
    [SS_ENDPOINT_RUN] = "UPDATE endpoint SET failures = ?2, failing_since = ?3 WHERE n = ?1",
    [SS_ENDPOINT_USERS] = "SELECT e.id, u.uid FROM endpoint_user AS u JOIN endpoint AS e ON e.n = u.endpoint",
    [SS_ENDPOINT_USER_ADD] = "INSERT OR IGNORE INTO endpoint_user(endpoint, uid) VALUES(?1, ?2)",
    [SS_ENDPOINT_USER_DELETE] = "DELETE FROM endpoint_user WHERE endpoint = ?1 AND uid = ?2",
    [SS_ENDPOINT_OF_UID] = "SELECT (SELECT count(*) FROM endpoint WHERE app = 0 AND uid = ?1)"
                           " + (SELECT count(*) FROM endpoint_user WHERE uid = ?1)",
    [SS_ENDPOINT_SECRETS] = "SELECT secret, created, valid_until FROM endpoint_secret WHERE endpoint = ?1"
                            " ORDER BY n DESC",
    [SS_ENDPOINT_SECRET_ADD] =
        "INSERT INTO endpoint_secret(endpoint, secret, created, valid_until) VALUES(?1, ?2, ?3, 0)",
    [SS_ENDPOINT_SECRET_END] = "UPDATE endpoint_secret SET valid_until = ?2 WHERE endpoint = ?1 AND valid_until = 0",
    [SS_ENDPOINT_SECRET_DELETE] = "DELETE FROM endpoint_secret WHERE endpoint = ?1 AND valid_until <> 0 AND"
                                  " valid_until <= ?2",
    [SS_VALUE_PUT] = "INSERT INTO value(owner, key, data, expires, size) VALUES(?1, ?2, ifnull(?3, x''), ?4, ?5)"
                     " ON CONFLICT DO UPDATE SET data = excluded.data, expires = excluded.expires,"
                     " size = excluded.size",
    [SS_VALUE_GET] = "SELECT data FROM value WHERE owner = ?1 AND key = ?2 AND (expires = 0 OR expires > ?3)",
    [SS_VALUE_REMOVE] = "DELETE FROM value WHERE owner = ?1 AND key = ?2",
    /* What there is besides this key. */
    [SS_VALUE_ROOM] = "SELECT ifnull(max(o.n), 0) - count(v.key), ifnull(max(o.bytes), 0) - ifnull(sum(v.size), 0)"
                      " FROM (SELECT 1) LEFT JOIN value_owner AS o ON o.owner = ?1"
                      " LEFT JOIN value AS v ON v.owner = ?1 AND v.key = ?2",
    [SS_VALUE_PURGE] = "DELETE FROM value WHERE (owner, key) IN (SELECT owner, key FROM value WHERE expires > 0 AND"
                       " expires <= ?1 AND (?2 IS NULL OR owner = ?2) ORDER BY expires LIMIT ?3)",
    [SS_PLACE_PUT] = "INSERT INTO place(uid, latitude, longitude, updated) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO"
                     " UPDATE SET latitude = excluded.latitude, longitude = excluded.longitude,"
                     " updated = excluded.updated",
    [SS_PLACE_OF] = "SELECT latitude, longitude, updated FROM place WHERE uid = ?1",
    [SS_GEOLOCATION_SET] = "UPDATE conversation SET geolocation = ?2 WHERE id = ?1",
    [SS_VALUE_FIRST] = "SELECT min(expires) FROM value WHERE expires > 0",
    [SS_VOICE_PUT] = "INSERT INTO voice(uid, person_id, kind, created, seconds, vector) SELECT ?1, ?2, ?3, ?4, ?5, ?6"
                     " WHERE ?2 = 'user' OR EXISTS(SELECT 1 FROM person WHERE uid = ?1 AND id = ?2)",
    [SS_VOICE_TRIM] = "DELETE FROM voice WHERE uid = ?1 AND person_id = ?2 AND kind = ?3 AND n NOT IN (SELECT n FROM"
                      " voice WHERE uid = ?1 AND person_id = ?2 AND kind = ?3 ORDER BY n DESC LIMIT ?4)",
    [SS_VOICE_DELETE] = "DELETE FROM voice WHERE uid = ?1 AND person_id = ?2",
    [SS_VOICE_OF] = "SELECT v.person_id, ifnull(p.name, ''), v.vector FROM voice AS v LEFT JOIN person AS p"
                    " ON p.uid = v.uid AND p.id = v.person_id WHERE v.uid = ?1 ORDER BY v.n DESC",
    [SS_PROFILE_OF] = "SELECT max(iif(kind = 1, created, 0)), total(iif(kind = 1, seconds, 0)), total(kind = 0)"
                      " FROM voice WHERE uid = ?1 AND person_id = 'user'",
    [SS_PEOPLE_OF] = "SELECT id, name, created, (SELECT count(*) FROM voice AS v WHERE v.uid = p.uid AND v.person_id ="
                     " p.id) FROM person AS p WHERE uid = ?1 ORDER BY n",
    [SS_PERSON_RENAME] = "UPDATE person SET name = ?3 WHERE uid = ?1 AND id = ?2",
    [SS_PERSON_DELETE] = "DELETE FROM person WHERE uid = ?1 AND id = ?2",
    [SS_PERSON_SPEAKERS] = "DELETE FROM speaker WHERE person_id = ?2 AND conversation IN"
                           " (SELECT n FROM conversation WHERE uid = ?1)",
    [SS_SAMPLES_DROP] = "DELETE FROM speaker_sample WHERE uid = ?1 AND person_id = ?2",
    [SS_SAMPLES_WAITING] = "SELECT count(*) FROM speaker_sample WHERE status = 0",
    [SS_SAMPLES_DUE] =
        "SELECT a.id, a.uid, a.person_id, a.speaker_id, a.segments, a.created, a.attempts, c.n, c.id, c.started,"
        " (SELECT ifnull(person_id, 'user') FROM speaker AS k WHERE k.conversation = a.conversation AND k.speaker_id ="
        " a.speaker_id) FROM speaker_sample AS a JOIN conversation AS c ON c.n = a.conversation WHERE a.status = 0 AND"
        " a.created <= ?1 AND a.due <= ?2 AND a.attempts <= ?3 ORDER BY a.due, a.n LIMIT ?4",
    [SS_SAMPLE_SEGMENT] =
        "SELECT start, \"end\", session FROM segment WHERE conversation = ?1 AND id IN (SELECT value FROM"
        " json_each(?2)) ORDER BY \"end\" - start DESC LIMIT 1",
    [SS_SAMPLE_SPEAKER] = "SELECT start, \"end\", session FROM segment WHERE conversation = ?1 AND speaker_id = ?2"
                          " ORDER BY \"end\" - start DESC LIMIT 1",
    [SS_SAMPLE_TAKEN] = "UPDATE speaker_sample SET status = 1, error = NULL WHERE id = ?1 AND status = 0"
                        " RETURNING uid, person_id",
    [SS_SAMPLE_FAILED] = "UPDATE speaker_sample SET attempts = attempts + 1, due = ?2, error = ?3, status = iif(?2 = 0,"
                         " 2, 0) WHERE id = ?1 AND status = 0",
};
