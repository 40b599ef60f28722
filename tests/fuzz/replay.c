/*
 * main() of a fuzzer without libFuzzer: runs each file of its corpus once.
 *
 *     fuzz_NAME [FILE or FOLDER ...]      default: tests/fuzz/corpus/NAME of the source
 */
#include <dirent.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

#define MAX_FILE (1u << 20)

static unsigned runs;

static bool run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *read = malloc(MAX_FILE);
    if (f == NULL || read == NULL) {
        perror(path);
        return false;
    }
    size_t n = fread(read, 1, MAX_FILE, f);
    fclose(f);
    /* A block of just this size: the sanitizers see a byte too many. */
    uint8_t *exact = malloc(n > 0 ? n : 1);
    if (exact == NULL)
        return false;
    memcpy(exact, read, n);
    free(read);
    fprintf(stderr, "%s\n", path);
    (void)LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    runs++;
    return true;
}

static bool run_path(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        return false;
    }
    if (!S_ISDIR(st.st_mode))
        return run_file(path);
    DIR *dir = opendir(path);
    bool ok = dir != NULL;
    for (struct dirent *e; ok && (e = readdir(dir)) != NULL;) {
        char file[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
        ok = run_file(file);
    }
    if (dir != NULL)
        closedir(dir);
    return ok;
}

int main(int argc, char **argv)
{
    bool ok = true;
    for (int i = 1; i < argc; i++)
        ok = run_path(argv[i]) && ok;
    if (argc == 1) {
        const char *name = strstr(argv[0], "fuzz_"), *srcdir = getenv("srcdir");
        for (const char *next = name; next != NULL && (next = strstr(next + 1, "fuzz_")) != NULL;)
            name = next;
        char path[4096];
        snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", srcdir != NULL ? srcdir : ".",
                 name != NULL ? name + strlen("fuzz_") : "");
        ok = run_path(path);
    }
    printf("%u inputs\n", runs);
    return ok && runs > 0 ? 0 : 1;
}
