/* Keys of URLs: what names a partner. scheme://host:port/path, without user, query and fragment. Pure; any thread. */
#ifndef OMID_BASE_URLKEY_H
#define OMID_BASE_URLKEY_H

#include <stdbool.h>
#include <stddef.h>

#define URL_KEY_EXTRA 8 /* bytes a key may need beyond its URL, NUL included */

/* Writes the key of a URL that begins with http://, https://, ws:// or wss://. false: it doesn't, it has characters
 * that no URL has, or does not fit. For counting and comparing, never for connecting: curl reads the URL itself. */
bool url_key(const char *url, char *out, size_t size);
/* The length of a key up to its path: scheme, host and port. 0: it is none. */
size_t url_key_origin(const char *key);
/* Of two keys: are they the same in that? */
bool url_key_same_origin(const char *a, const char *b);
/* Of a key: 1 to 65535; 0: there is no such port. */
unsigned url_key_port(const char *key);
/* Has the URL a user, a password, a query or a fragment: what is not in its key? */
bool url_has_extras(const char *url);
/* What messages may show of a text that should be a URL: *** in place of what may be a user and a password, and of a
 * query and a fragment. Cut to fit. */
void url_show(const char *url, char *out, size_t size);

#endif
