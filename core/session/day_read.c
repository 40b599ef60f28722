/* What a day is and holds: blocking work, for an executor's thread. The reactor does not touch the day meanwhile. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "session/days_int.h"
#include "session/extract.h"
#include "store/days.h"

#define MAX_JSON ((size_t)4 << 20)
#define MAX_TRANSCRIPT ((size_t)64 << 10) /* of one conversation; a longer one goes without */

static int64_t moment_ms(const struct zone *z, int64_t day, int minutes)
{
    return zone_moment(z, day * 86400 + (int64_t)minutes * 60) * 1000;
}

/* A calendar day is [from, to). A scheduled one is the last whose moment has come; its date is the one on which the
 * time before that moment lies: at midnight, the day that is over. */
void day_zone_run(void *arg)
{
    struct day *d = arg;
    int64_t number = 0;
    int ahead = d->scheduled && d->at == 0 ? 1 : 0; /* days from the date to the moment's */
    struct zone *z = zone_load(d->timezone, d->err, sizeof d->err);
    d->ok = z != NULL;
    if (!z)
        return;
    if (d->date_given) {
        d->ok = zone_date_parse(d->date, &number);
    } else {
        number = zone_day(z, d->now_ms / 1000) - ahead;
        if (d->scheduled && moment_ms(z, number + ahead, d->at) > d->now_ms)
            number--;
        zone_date_format(number, d->date);
    }
    d->from_ms = moment_ms(z, number, 0);
    d->to_ms = moment_ms(z, number + 1, 0);
    d->until_ms = d->scheduled ? moment_ms(z, number + ahead, d->at) : 0;
    d->next_ms = moment_ms(z, number + ahead + 1, d->at);
    zone_free(&z);
}

struct reading {
    struct day *d;
    struct json_w w, ids;
    struct store_conversation all; /* their titles and overviews, as if somebody had said them */
    size_t cap;
    bool failed;
};

static const char *text_of(yajl_val structured, const char *key)
{
    const char *s = json_str(structured, key);
    return s ? s : "";
}

static bool sentence_add(struct reading *r, const char *title, const char *overview)
{
    struct store_conversation *all = &r->all;
    if (all->n_segments == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 32;
        struct store_segment *more = realloc(all->segment, cap * sizeof *more);
        if (!more)
            return false;
        all->segment = more;
        r->cap = cap;
    }
    const char *said = overview[0] ? overview : title;
    size_t len = strlen(said);
    bool ended = len > 0 && strchr(".?!", said[len - 1]);
    char *text = malloc(len + 2);
    if (!text)
        return false;
    snprintf(text, len + 2, "%s%s", said, ended || len == 0 ? "" : ".");
    all->segment[all->n_segments++] = (struct store_segment){.text = text};
    return true;
}

static bool on_conversation(void *arg, const struct store_conversation *c)
{
    struct reading *r = arg;
    struct store_conversation copy = *c;
    char err[128];
    size_t bytes = 0;
    for (size_t i = 0; i < c->n_segments; i++)
        bytes += strlen(c->segment[i].text);
    if (bytes > MAX_TRANSCRIPT || r->d->json.len + bytes * 3 > MAX_JSON)
        copy.n_segments = 0;
    store_conversation_json(&r->w, &copy);
    yajl_val v = c->structured ? json_parse(c->structured, strlen(c->structured), 0, err, sizeof err) : NULL;
    r->failed = !sentence_add(r, text_of(v, "title"), text_of(v, "overview"));
    json_free(&v);
    json_w_str(&r->ids, c->id);
    r->d->n++;
    return !r->failed && r->d->json.len < MAX_JSON;
}

void day_read_run(void *arg)
{
    struct day *d = arg;
    struct reading r = {.d = d};
    buf_free(&d->json);
    buf_free(&d->ids);
    d->n = 0;
    json_w_start(&r.ids, &d->ids);
    json_w_open(&r.ids, '[');
    json_w_start(&r.w, &d->json);
    json_w_open(&r.w, '[');
    bool untold = d->until_ms != 0;
    int rc = store_day_each(d->ds->ss->env.store, d->uid, untold ? STORE_DAY_UNTOLD : STORE_DAY_BEGAN,
                            untold ? d->since_ms : d->from_ms, untold ? d->until_ms : d->to_ms, DAY_MAX_CONVERSATIONS,
                            on_conversation, &r, d->err, sizeof d->err);
    json_w_close(&r.w, ']');
    json_w_close(&r.ids, ']');
    struct buf extract = BUF_INIT(0);
    d->ok = rc != OMID_ERR && !r.failed && json_w_end(&r.w) && json_w_end(&r.ids) && extract_summary(&r.all, &extract);
    free(d->extract);
    d->extract = d->ok ? buf_steal(&extract, NULL) : NULL;
    if (rc != OMID_ERR && !d->extract)
        snprintf(d->err, sizeof d->err, "no memory");
    d->ok = d->extract != NULL;
    buf_free(&extract);
    for (size_t i = 0; i < r.all.n_segments; i++)
        free((char *)r.all.segment[i].text);
    free(r.all.segment);
}

char *day_summary_make(const struct day *d, const char *summary)
{
    static const char *const ours[] = {"date", "timezone", "conversations", "events"};
    char err[128];
    struct buf b = BUF_INIT(0);
    struct json_w w;
    yajl_val v = json_parse(summary, strlen(summary), 0, err, sizeof err);
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    for (size_t i = 0; YAJL_IS_OBJECT(v) && i < v->u.object.len; i++) {
        bool known = false;
        for (size_t k = 0; k < ARRAY_LEN(ours); k++)
            known = known || strcmp(v->u.object.keys[i], ours[k]) == 0;
        if (known)
            continue;
        json_w_key(&w, v->u.object.keys[i]);
        json_w_tree(&w, v->u.object.values[i]);
    }
    json_w_kstr(&w, "date", d->date);
    json_w_kstr(&w, "timezone", d->timezone);
    json_w_kint(&w, "conversations", d->n);
    json_w_close(&w, '}');
    json_free(&v);
    char *out = json_w_end(&w) ? buf_steal(&b, NULL) : NULL;
    buf_free(&b);
    return out;
}
