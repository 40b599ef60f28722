/* The directory for files of a plugin's own: data_dir() of struct omid_host. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "host/module.h"

static bool dir_make(const char *path)
{
    struct stat st;
    if (mkdir(path, 0700) == 0)
        return true;
    if (errno != EEXIST || stat(path, &st) != 0)
        return false;
    if (!S_ISDIR(st.st_mode))
        errno = ENOTDIR;
    return S_ISDIR(st.st_mode);
}

const char *host_data_dir(struct omid_module *mod)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    char above[4200], path[4300];
    const char *state = mod->owner->daemon.state_dir;
    snprintf(above, sizeof(above), "%s/plugins", state);
    snprintf(path, sizeof(path), "%s/%s", above, mod->name);
    pthread_mutex_lock(&mod->lock);
    bool checking = mod->host->env.lanes == NULL; /* omid -t leaves the disk alone */
    if (mod->data_dir == NULL && (checking || (dir_make(above) && dir_make(path))))
        mod->data_dir = intern(path); /* of all generations, and of what still runs when the module is gone */
    int error = errno;
    const char *dir = mod->data_dir;
    pthread_mutex_unlock(&mod->lock);
    if (dir == NULL)
        log_error("host", "a plugin's directory can't be made", LS("plugin", mod->name), LS("path", path),
                  LS("reason", strerror(error)));
    return dir;
}
