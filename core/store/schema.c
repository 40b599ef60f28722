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

/* Version 3: apps and developer webhooks. */
static const char v3[] = "SELECT 1;";

/* Version 4: plugins' own values. */
static const char v4[] = "SELECT 1;";

/* Version 5: voices. */
static const char v5[] = "SELECT 1;";

/* Version 6: places. */
static const char v6[] = "SELECT 1;";

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

/* Version 8: the steps of a conversation's end. */
static const char v8[] = "SELECT 1;";

const char *const store_migrations[] = {v1, v2, v3, v4, v5, v6, v7, v8};
const size_t store_n_migrations = ARRAY_LEN(store_migrations);

#define CONV_COLUMNS \
    "n, id, uid, language, source, status, created, started, finished, timeout, structured, error, call_id"

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
        "UPDATE conversation SET status = ?3, structured = ifnull(?4, structured), error = ifnull(?5, error)"
        " WHERE id = ?1 AND status = ?2",
    [SS_CONV_DELETE] = "DELETE FROM conversation WHERE id = ?1 AND (?2 IS NULL OR uid = ?2) RETURNING status",
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
    [SS_RECORDING_AGAIN] = "UPDATE recording SET status = 0, attempts = 0, not_before = 0, progress = 0, stored = 0,"
                           " error = NULL, created = ?2 WHERE n = ?1",
    [SS_RECORDING_COUNT] = "SELECT count(*) FROM recording WHERE uid = ?1 AND stored = 0",
    [SS_RECORDINGS_DUE] = "SELECT n, uid, language, file, format, start, status, attempts, conversations FROM recording"
                          " WHERE stored = 0 AND not_before <= ?1 ORDER BY not_before, n LIMIT ?2",
    [SS_RECORDINGS_FORGET] =
        "DELETE FROM recording WHERE n IN (SELECT n FROM recording r WHERE created < ?1 AND stored = 1 AND"
        " NOT EXISTS(SELECT 1 FROM upload_file WHERE recording = r.n) ORDER BY created LIMIT ?2)",
    [SS_RECORDING_SET] =
        "UPDATE recording SET status = ?2, attempts = ?3, not_before = ?4, progress = ?5, seconds = ?6,"
        " error = ?7, stored = ?8 WHERE n = ?1",
    [SS_RECORDING_OPEN] = "SELECT 1 FROM recording WHERE n = ?1 AND status <= 1",
    [SS_RECORDING_DONE] = "UPDATE recording SET status = 2, attempts = 0, not_before = 0, progress = 1, seconds = ?2,"
                          " conversations = ?3, error = NULL WHERE n = ?1",
    [SS_RECORDING_WANTS] = "SELECT 1 FROM recording WHERE file = ?1 AND stored = 0",
    [SS_SEG_PUT] =
        "INSERT INTO segment(conversation, id, text, speaker, speaker_id, is_user, person_id, stt_provider, start,"
        " \"end\") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT(conversation, id) DO UPDATE SET"
        " text = excluded.text, speaker = excluded.speaker, speaker_id = excluded.speaker_id,"
        " is_user = excluded.is_user, person_id = excluded.person_id, stt_provider = excluded.stt_provider,"
        " start = excluded.start, \"end\" = excluded.\"end\"",
    [SS_SEG_DELETE] = "DELETE FROM segment WHERE conversation = ?1 AND id = ?2",
    [SS_SEG_OF] = "SELECT id, text, speaker, speaker_id, is_user, person_id, stt_provider, start, \"end\" FROM segment"
                  " WHERE conversation = ?1 ORDER BY start, n",
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
    [SS_SAMPLE_PUT] = "INSERT OR IGNORE INTO speaker_sample(id, uid, conversation, person_id, speaker_id, segments,"
                      " created, status) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
};
