/*
 * Fan-outs of an instance: many items, so many at once, begun and handed over in their order.
 *
 *     PENDING --start()--> RUNNING --gather_done(), timeout--> OVER --item()--> TOLD
 *        '-----start() fails------------------------------------^
 *
 * Whatever happens only marks items and asks for a turn: start(), item() and finished() are called from a message of
 * the loop, so none comes within a call of the plugin. A turn does a bounded number of them.
 *
 * A token is the place of its fan-out among those of the instance, that place's occupant by number, and the item: one
 * that is late finds another occupant, or an item that is over, and is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "host/module.h"

#define PER_TURN 256
#define LOGGED_FAILURES 8 /* of one fan-out; the rest is one line */
#define DEFAULT_TIMEOUT_MS 60000

/* token: serial (37 bits), place (10), index (17) */
#define INDEX_BITS 17
#define PLACE_BITS 10
_Static_assert((1u << PLACE_BITS) == INSTANCE_MAX_GATHERS, "a place fits into a token");
_Static_assert(OMID_GATHER_MAX_ITEMS < (1u << INDEX_BITS), "an index fits into a token");

enum item_state { ITEM_PENDING, ITEM_RUNNING, ITEM_OVER, ITEM_TOLD };

struct item {
    enum item_state state;
    int result;
    void *value;
    uint64_t due_ms;  /* while it runs */
    struct list link; /* of the running ones, in the order of their start */
};

struct omid_gather {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst;
    struct omid_gather_request req;
    struct gather_label *label;
    unsigned place; /* in inst->gather */
    uint64_t serial, began_ns;
    unsigned next, over, told, failed; /* the next to begin; how many are over, were told, failed */
    struct list running;
    unsigned n_running;
    ev_timer timer; /* for the first of running */
    struct loop_msg turn;
    bool turn_asked; /* turn is on its way: holds a reference to the module, and the memory */
    bool busy;       /* a callback of it is under way above us */
    bool finishing;  /* it is finished() */
    bool cancelled;  /* freed by whoever lets go last */
    struct item item[];
};

static void on_turn(struct loop *loop, struct loop_msg *msg);
static void on_due(struct ev_loop *ev, ev_timer *watcher, int revents);

/* ------------------------------------------------------------ labels */

static bool label_valid(const char *s)
{
    size_t n = s != NULL ? strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") : 0;
    return n > 0 && n <= GATHER_MAX_LABEL && s[n] == '\0';
}

static void label_make(struct gather_label *l, const struct omid_module *mod, const char *label)
{
    static const double bounds[] = {0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30};
    snprintf(l->name, sizeof(l->name), "%s:%s", mod->name, label);
    const struct metric_label by = {"label", l->name};
    l->failures =
        metric_get(METRIC_COUNTER, "async_gather_failures_total", "Items of fan-outs that failed.", &by, 1, NULL, 0);
    l->duration = metric_get(METRIC_HISTOGRAM, "async_gather_duration_seconds",
                             "Time from a fan-out's beginning to its last item's end.", &by, 1, bounds,
                             sizeof(bounds) / sizeof(bounds[0]));
}

static struct gather_label *label_find(struct omid_module *mod, const char *label)
{
    size_t skip = strlen(mod->name) + 1;
    for (unsigned i = 0; i < mod->n_gather_labels; i++) {
        if (strcmp(mod->gather_label[i].name + skip, label) == 0)
            return &mod->gather_label[i];
    }
    return NULL;
}

int gather_label(struct omid_module *mod, const char *label)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    if (mod->faults == NULL)
        return OMID_ETHREAD; /* not within configure() */
    if (!label_valid(label))
        return OMID_EINVAL;
    if (label_find(mod, label) != NULL)
        return OMID_OK;
    if (mod->n_gather_labels == GATHER_MAX_LABELS)
        return OMID_EFULL;
    label_make(&mod->gather_label[mod->n_gather_labels++], mod, label);
    return OMID_OK;
}

/* ------------------------------------------------------------ life */

static void ask_turn(struct omid_gather *g)
{
    if (g->turn_asked || g->busy)
        return;
    g->turn_asked = true;
    (void)module_ref(g->inst->module);
    g->turn.fn = on_turn;
    loop_post(g->inst->loop, &g->turn);
}

/* Out of the instance's tables: no token finds it any more. */
static void leave(struct omid_gather *g)
{
    struct omid_instance *inst = g->inst;
    ev_timer_stop(loop_ev(inst->loop), &g->timer);
    inst->gather[g->place] = NULL;
    inst->n_gather_items -= g->req.n;
}

static void let_go(struct omid_gather *g)
{
    if (g->busy || g->turn_asked)
        return;
    module_account_memory(g->inst->module, -(int64_t)(sizeof(*g) + g->req.n * sizeof(g->item[0])));
    g->magic = OMID_MAGIC_DEAD;
    free(g);
}

/* The first free place, or INSTANCE_MAX_GATHERS. */
static unsigned place_find(struct omid_instance *inst)
{
    if (inst->gather == NULL)
        inst->gather = calloc(INSTANCE_MAX_GATHERS, sizeof(struct omid_gather *));
    unsigned i = inst->gather != NULL ? 0 : INSTANCE_MAX_GATHERS;
    while (i < INSTANCE_MAX_GATHERS && inst->gather[i] != NULL)
        i++;
    return i;
}

int gather_start(struct omid_instance *inst, const struct omid_gather_request *req, struct omid_gather **out)
{
    int rc = instance_check_new(inst, "gather_start");
    if (rc != OMID_OK)
        return rc;
    struct gather_label *label =
        req != NULL && req->size >= sizeof(*req) && req->label != NULL ? label_find(inst->module, req->label) : NULL;
    if (label == NULL || req->n > OMID_GATHER_MAX_ITEMS || req->at_once < 1 || req->at_once > OMID_GATHER_MAX_AT_ONCE ||
        req->start == NULL || req->finished == NULL)
        return OMID_EINVAL;
    unsigned place = place_find(inst);
    if (place == INSTANCE_MAX_GATHERS || req->n > INSTANCE_MAX_GATHER_ITEMS - inst->n_gather_items)
        return OMID_EFULL;
    struct omid_gather *g = calloc(1, sizeof(*g) + req->n * sizeof(g->item[0]));
    if (g == NULL)
        return OMID_ERR;
    g->magic = GATHER_MAGIC;
    g->inst = inst;
    g->req = *req;
    if (g->req.item_timeout_ms == 0)
        g->req.item_timeout_ms = DEFAULT_TIMEOUT_MS;
    g->label = label;
    g->place = place;
    g->serial = ++inst->gather_serial;
    g->began_ns = clock_mono_ns();
    list_init(&g->running);
    ev_timer_init(&g->timer, on_due, 0., 0.);
    g->timer.data = g;
    inst->gather[place] = g;
    inst->n_gather_items += req->n;
    module_account_memory(inst->module, (int64_t)(sizeof(*g) + req->n * sizeof(g->item[0])));
    instance_link(inst, HANDLE_GATHER, &g->link);
    ask_turn(g);
    if (out != NULL)
        *out = g;
    return OMID_OK;
}

/* ------------------------------------------------------------ items */

static omid_gather_token token_of(const struct omid_gather *g, unsigned index)
{
    return g->serial << (INDEX_BITS + PLACE_BITS) | (uint64_t)g->place << INDEX_BITS | index;
}

/* NULL: of no item that runs. */
static struct omid_gather *token_find(const struct omid_instance *inst, omid_gather_token token, unsigned *index)
{
    unsigned place = (unsigned)(token >> INDEX_BITS) & (INSTANCE_MAX_GATHERS - 1);
    struct omid_gather *g = inst->gather != NULL ? inst->gather[place] : NULL;
    *index = (unsigned)token & ((1u << INDEX_BITS) - 1);
    if (g == NULL || *index >= g->req.n || token != token_of(g, *index) || g->item[*index].state != ITEM_RUNNING)
        return NULL;
    CHECK_MAGIC(g, GATHER_MAGIC);
    return g;
}

/* The timer is for the first that runs: all have the same time. */
static void arm(struct omid_gather *g)
{
    struct ev_loop *ev = loop_ev(g->inst->loop);
    ev_timer_stop(ev, &g->timer);
    if (list_empty(&g->running))
        return;
    uint64_t now = clock_mono_ms(), due = list_entry(g->running.next, struct item, link)->due_ms;
    ev_now_update(ev);
    ev_timer_set(&g->timer, due > now ? (double)(due - now) / 1000. : 0., 0.);
    ev_timer_start(ev, &g->timer);
}

static void tell_failure(const struct omid_gather *g, unsigned index, int result, const char *text)
{
    if (g->failed <= LOGGED_FAILURES)
        log_warning("host", "an item of a fan-out failed", LS("label", g->label->name), LU("index", index),
                    LU("of", g->req.n), LI("result", result), LS("reason", text != NULL ? text : ""));
}

static void item_over(struct omid_gather *g, unsigned index, int result, const char *text, void *value)
{
    struct item *it = &g->item[index];
    bool first = g->running.next == &it->link;
    list_remove(&it->link);
    g->n_running--;
    it->state = ITEM_OVER;
    it->result = result;
    it->value = value;
    g->over++;
    if (result != OMID_OK) {
        g->failed++;
        metric_add(g->label->failures, 1);
        tell_failure(g, index, result, text);
    }
    if (first)
        arm(g);
}

int gather_done(struct omid_instance *inst, omid_gather_token token, int result, const char *text, void *value)
{
    int rc = instance_check(inst, "gather_done");
    if (rc != OMID_OK)
        return rc;
    unsigned index;
    struct omid_gather *g = token_find(inst, token, &index);
    if (g == NULL) {
        atomic_fetch_add(&inst->module->account.late, 1);
        return OMID_ECLOSED;
    }
    item_over(g, index, result, text, value);
    ask_turn(g);
    return OMID_OK;
}

static void abort_item(struct omid_gather *g, unsigned index)
{
    if (g->req.abort == NULL)
        return;
    struct host_call call;
    host_enter(&call, g->inst, "gather_abort");
    g->req.abort(g->req.arg, index);
    (void)host_leave(&call, OMID_OK);
}

static void on_due(struct ev_loop *ev, ev_timer *watcher, int revents)
{
    (void)ev;
    (void)revents;
    struct omid_gather *g = watcher->data;
    CHECK_MAGIC(g, GATHER_MAGIC);
    uint64_t now = clock_mono_ms();
    g->busy = true;
    while (!g->cancelled && !list_empty(&g->running)) {
        struct item *it = list_entry(g->running.next, struct item, link);
        if (it->due_ms > now)
            break;
        unsigned index = (unsigned)(it - g->item);
        item_over(g, index, OMID_ETIMEOUT, "it did not report in time", NULL);
        abort_item(g, index);
    }
    g->busy = false;
    if (g->cancelled) {
        let_go(g);
        return;
    }
    arm(g);
    ask_turn(g);
}

/* ------------------------------------------------------------ a turn */

static bool tell_next(struct omid_gather *g)
{
    if (g->told == g->req.n || g->item[g->told].state != ITEM_OVER)
        return false;
    unsigned index = g->told++;
    struct item *it = &g->item[index];
    void *value = it->value;
    it->state = ITEM_TOLD;
    it->value = NULL;
    if (g->req.item == NULL)
        return true;
    struct host_call call;
    host_enter(&call, g->inst, "gather_item");
    g->req.item(g->req.arg, index, it->result, value);
    (void)host_leave(&call, OMID_OK);
    return true;
}

static bool may_start(const struct omid_gather *g)
{
    if (g->next == g->req.n || g->n_running == g->req.at_once)
        return false;
    /* The first of a chunk waits for all before it, and no later one can have begun. */
    return g->req.chunk == 0 || g->next % g->req.chunk != 0 || g->over == g->next;
}

static bool start_next(struct omid_gather *g)
{
    if (!may_start(g))
        return false;
    unsigned index = g->next++;
    struct item *it = &g->item[index];
    it->state = ITEM_RUNNING;
    it->due_ms = clock_mono_ms() + g->req.item_timeout_ms;
    list_append(&g->running, &it->link);
    if (g->n_running++ == 0)
        arm(g);
    struct host_call call;
    host_enter(&call, g->inst, "gather_start");
    int rc = g->req.start(g->req.arg, index, token_of(g, index));
    (void)host_leave(&call, OMID_OK); /* a failure of the item, which is counted as that */
    if (rc != OMID_OK && !g->cancelled && it->state == ITEM_RUNNING)
        item_over(g, index, rc, "it did not begin", NULL);
    return true;
}

static void finish(struct omid_gather *g)
{
    if (g->failed > LOGGED_FAILURES)
        log_warning("host", "more items of a fan-out failed", LS("label", g->label->name), LU("failed", g->failed),
                    LU("of", g->req.n));
    metric_observe(g->label->duration, (double)(clock_mono_ns() - g->began_ns) / 1e9);
    g->finishing = true;
    struct host_call call;
    host_enter(&call, g->inst, "gather_finished");
    g->req.finished(g->req.arg, g->failed);
    (void)host_leave(&call, OMID_OK);
    leave(g);
    instance_unlink(g->inst, HANDLE_GATHER, &g->link);
    let_go(g);
}

static void turn(struct omid_gather *g)
{
    unsigned left = PER_TURN;
    g->busy = true;
    while (!g->cancelled && left > 0 && (tell_next(g) || start_next(g)))
        left--;
    g->busy = false;
    if (g->cancelled)
        let_go(g);
    else if (g->told == g->req.n)
        finish(g);
    else if (left == 0)
        ask_turn(g);
}

static void on_turn(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct omid_gather *g = container_of(msg, struct omid_gather, turn);
    struct omid_module *mod = g->inst->module;
    g->turn_asked = false;
    if (g->cancelled)
        let_go(g);
    else if (g->magic == GATHER_MAGIC) /* else its instance has ended meanwhile, and the module has the memory */
        turn(g);
    module_unref(&mod);
}

/* ------------------------------------------------------------ its end before its end */

void gather_cancel(struct omid_gather **gp)
{
    if (gp == NULL || *gp == NULL)
        return;
    struct omid_gather *g = *gp;
    omid_assert(g->magic == GATHER_MAGIC || g->magic == OMID_MAGIC_DEAD);
    if (instance_check(g->inst, "gather_cancel") != OMID_OK)
        return;
    *gp = NULL;
    CHECK_MAGIC(g, GATHER_MAGIC);
    if (g->finishing || g->cancelled)
        return;
    bool was_busy = g->busy;
    g->cancelled = g->busy = true;
    leave(g);
    for (unsigned i = g->told; i < g->next; i++) {
        struct item *it = &g->item[i];
        if (it->state == ITEM_RUNNING) {
            it->state = ITEM_TOLD;
            abort_item(g, i);
        } else if (it->state == ITEM_OVER && it->value != NULL && g->req.drop != NULL) {
            struct host_call call;
            host_enter(&call, g->inst, "gather_drop");
            g->req.drop(g->req.arg, it->value);
            (void)host_leave(&call, OMID_OK);
        }
    }
    g->busy = was_busy;
    instance_unlink(g->inst, HANDLE_GATHER, &g->link);
    let_go(g);
}

void gather_bury(struct list *link, struct omid_instance *inst)
{
    struct omid_gather *g = list_entry(link, struct omid_gather, link);
    CHECK_MAGIC(g, GATHER_MAGIC);
    leave(g);
    g->magic = OMID_MAGIC_DEAD;
    instance_bury(inst, g);
}
