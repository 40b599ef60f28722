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

const char *const store_migrations[] = {v1};
const size_t store_n_migrations = ARRAY_LEN(store_migrations);

#define CONV_COLUMNS "n, id, uid, language, source, status, created, started, finished, timeout, structured, error"

const char *const store_statements[SS_STATEMENTS] = {
    [SS_CONV_INSERT] =
        "INSERT INTO conversation(id, uid, language, source, status, created, started, finished, timeout)"
        " VALUES(?1, ?2, ?3, ?4, 0, ?5, 0, ?5, ?6)",
    [SS_CONV_BY_ID] = "SELECT " CONV_COLUMNS " FROM conversation WHERE id = ?1",
    [SS_CONV_IN_PROGRESS] = "SELECT id, finished, timeout FROM conversation WHERE status = 0 AND uid = ?1"
                            " ORDER BY finished DESC, n DESC",
    [SS_CONV_RESUME] = "UPDATE conversation SET timeout = ?2 WHERE id = ?1",
    [SS_CONV_TIMES] = "UPDATE conversation SET started = iif(?2 = 0, started, ?2), finished = iif(?3 = 0, finished, ?3)"
                      " WHERE n = ?1",
    [SS_CONV_STATUS] =
        "UPDATE conversation SET status = ?3, structured = ifnull(?4, structured), error = ifnull(?5, error)"
        " WHERE id = ?1 AND status = ?2",
    [SS_CONV_DELETE] = "DELETE FROM conversation WHERE id = ?1 RETURNING status",
    [SS_CONV_ROW] = "SELECT n FROM conversation WHERE id = ?1",
    [SS_DUE_TIMEOUT] = "SELECT id, uid, status, n FROM conversation WHERE status = 0 AND finished + timeout <= ?1"
                       " ORDER BY finished + timeout LIMIT ?2",
    [SS_DUE_PROCESSING] =
        "SELECT id, uid, status, n FROM conversation WHERE status = 1 AND n > ?1 AND n <= ?2 ORDER BY n"
        " LIMIT ?3",
    [SS_SEG_PUT] =
        "INSERT INTO segment(conversation, id, text, speaker, speaker_id, is_user, person_id, stt_provider, start,"
        " \"end\") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT(conversation, id) DO UPDATE SET"
        " text = excluded.text, speaker = excluded.speaker, speaker_id = excluded.speaker_id,"
        " is_user = excluded.is_user, person_id = excluded.person_id, stt_provider = excluded.stt_provider,"
        " start = excluded.start, \"end\" = excluded.\"end\"",
    [SS_SEG_DELETE] = "DELETE FROM segment WHERE conversation = ?1 AND id = ?2",
    [SS_SEG_OF] = "SELECT id, text, speaker, speaker_id, is_user, person_id, stt_provider, start, \"end\" FROM segment"
                  " WHERE conversation = ?1 ORDER BY start, n",
};
