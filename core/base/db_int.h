/* The inside of struct db, shared by db.c and db_open.c alone. */
#ifndef OMID_BASE_DB_INT_H
#define OMID_BASE_DB_INT_H

#include "base/db.h"

#define DB_MAGIC UINT32_C(0x64623031)

struct db {
    uint32_t magic;
    sqlite3 *sq;
    int fd; /* holds the flock */
    char *path;
    const char *what;
    sqlite3_stmt **stmts;
    size_t n_stmts;
    int rc;    /* extended code of the last failure */
    bool full; /* it was for want of room */
    char error[512];
};

/* Remembers a failure: rc and its text. */
void db_note(struct db *db, int rc, const char *doing);

#endif
