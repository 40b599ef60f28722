/* A store on a file of its own, with a loop for its answers, for a test program. One per program. */
#ifndef OMID_TESTS_FIXTURE_STORE_H
#define OMID_TESTS_FIXTURE_STORE_H

#include <CUnit/Basic.h>

#include "store/store.h"
#include "unit.h"
#include "unit_db.h"

extern char dir[96], path[112];     /* of the file */
extern struct loop *lp;             /* runs throughout */
extern struct store *s;             /* NULL: not open */
extern bool aside;                  /* the file that fixture_open() found was damaged */
extern struct store_config options; /* of fixture_open(), path apart; reset by fixture_begin() */

/* Suites' init and cleanup functions. 0: well. */
int fixture_begin(void);
int fixture_end(void);
/* Opens and starts it. false: told why. */
bool fixture_open(void);
void fixture_close(void);
/* The same on an empty directory. */
void fixture_fresh(void);

#endif
