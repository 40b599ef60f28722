#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "host/module.h"

/*
 * The metrics registry keeps pointers for the life of the process, while a plugin's strings go with its file. What
 * is interned is bounded: names of plugins and 64 counters of each.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map *texts;

const char *intern(const char *text)
{
    pthread_mutex_lock(&lock);
    if (texts == NULL)
        texts = map_new();
    char *s = texts != NULL ? map_get(texts, text) : NULL;
    if (s == NULL && texts != NULL) {
        s = strdup(text);
        if (s != NULL && !map_put(texts, text, s, NULL)) {
            free(s);
            s = NULL;
        }
    }
    pthread_mutex_unlock(&lock);
    return s;
}
