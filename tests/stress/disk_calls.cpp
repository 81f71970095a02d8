// Counts the calls by which a process changes what is on the disk below one folder, and at the
// chosen one fails or kills the process. Loaded with LD_PRELOAD; does nothing until it is armed.
//
// Modes: 'f' this call fails; 'd' this and every later call that needs space fails, as on a full
// disk; 'b' killed before the call, 'a' after it, 'h' after half of what was to be written.

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <string>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

std::string folder;
std::atomic<long>* counter = nullptr;
long chosen = 0;
char mode = 0;
int error_number = 0;

template <typename Function> Function* real(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string link_of(int handle) {
    char path[PATH_MAX], link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path);
    return length < 0 ? std::string() : std::string(path, length);
}

std::string at(int place, const char* path) {
    if (path[0] == '/') return path;
    char here[PATH_MAX];
    std::string base = place == AT_FDCWD ? (getcwd(here, sizeof here) ? here : "") : link_of(place);
    return base + "/" + path;
}

bool below(const std::string& path) {
    return counter && !folder.empty() && path.compare(0, folder.size(), folder) == 0;
}

enum class Act { go_on, fail, kill_after, kill_half };

Act on_call(const std::string& path, bool needs_space) {
    if (!below(path)) return Act::go_on;
    long number = ++*counter;
    if (mode == 'd' && needs_space && chosen && number >= chosen) return Act::fail;
    if (number != chosen) return Act::go_on;
    if (mode == 'b') kill(getpid(), SIGKILL);
    if (mode == 'a') return Act::kill_after;
    if (mode == 'h') return Act::kill_half;
    return mode == 'f' ? Act::fail : Act::go_on;
}

template <typename Call> auto around(const std::string& path, bool needs_space, Call call) {
    Act act = on_call(path, needs_space);
    if (act == Act::fail) {
        errno = error_number;
        return static_cast<decltype(call())>(-1);
    }
    auto result = call();
    if (act != Act::go_on) kill(getpid(), SIGKILL);
    return result;
}

// Half of it, where the process is to die within a write.
size_t part(const Act act, size_t size) { return act == Act::kill_half ? size / 2 : size; }

template <typename Call> ssize_t writing(int handle, size_t size, Call call) {
    Act act = on_call(link_of(handle), true);
    if (act == Act::fail) {
        errno = error_number;
        return -1;
    }
    ssize_t written = call(part(act, size));
    if (act != Act::go_on) kill(getpid(), SIGKILL);
    return written;
}

bool creates(int flags) { return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE; }

mode_t mode_of(int flags, va_list list) { return creates(flags) ? va_arg(list, mode_t) : 0; }

}  // namespace

extern "C" {

void stress_arm(const char* where, long* calls, long number, char how, int error) {
    folder = where;
    counter = reinterpret_cast<std::atomic<long>*>(calls);
    chosen = number;
    mode = how;
    error_number = error;
}

#define OPEN(name)                                                                            \
    int name(const char* path, int flags, ...) {                                              \
        va_list list;                                                                         \
        va_start(list, flags);                                                                \
        mode_t permissions = mode_of(flags, list);                                            \
        va_end(list);                                                                         \
        auto call = [&] { return real<int(const char*, int, ...)>(#name)(path, flags, permissions); }; \
        return creates(flags) || flags & O_TRUNC ? around(at(AT_FDCWD, path), creates(flags), call) : call(); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                          \
    int name(int place, const char* path, int flags, ...) {                                   \
        va_list list;                                                                         \
        va_start(list, flags);                                                                \
        mode_t permissions = mode_of(flags, list);                                            \
        va_end(list);                                                                         \
        auto call = [&] { return real<int(int, const char*, int, ...)>(#name)(place, path, flags, permissions); }; \
        return creates(flags) ? around(at(place, path), true, call) : call();                 \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int handle, const void* data, size_t size) {
    return writing(handle, size, [&](size_t count) {
        return real<ssize_t(int, const void*, size_t)>("write")(handle, data, count);
    });
}

#define PWRITE(name, offset_type)                                                             \
    ssize_t name(int handle, const void* data, size_t size, offset_type offset) {             \
        return writing(handle, size, [&](size_t count) {                                      \
            return real<ssize_t(int, const void*, size_t, offset_type)>(#name)(handle, data, count, offset); \
        });                                                                                   \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int handle, const iovec* parts, int count) {
    return around(link_of(handle), true, [&] {
        return real<ssize_t(int, const iovec*, int)>("writev")(handle, parts, count);
    });
}

#define SENDFILE(name, offset_type)                                                           \
    ssize_t name(int out, int in, offset_type* offset, size_t size) {                         \
        return writing(out, size, [&](size_t count) {                                         \
            return real<ssize_t(int, int, offset_type*, size_t)>(#name)(out, in, offset, count); \
        });                                                                                   \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t* from, int out, off64_t* to, size_t size, unsigned flags) {
    return writing(out, size, [&](size_t count) {
        return real<ssize_t(int, off64_t*, int, off64_t*, size_t, unsigned)>("copy_file_range")(
            in, from, out, to, count, flags);
    });
}

#define ON_HANDLE(name, needs_space, type)                                                    \
    int name(int handle, type size) {                                                         \
        return around(link_of(handle), needs_space,                                           \
                      [&] { return real<int(int, type)>(#name)(handle, size); });             \
    }
ON_HANDLE(ftruncate, true, off_t)
ON_HANDLE(ftruncate64, true, off64_t)

#define ALLOCATE(name, type)                                                                  \
    int name(int handle, type offset, type size) {                                            \
        int result = around(link_of(handle), true, [&] {                                      \
            return real<int(int, type, type)>(#name)(handle, offset, size);                   \
        });                                                                                   \
        return result == -1 ? errno : result;                                                 \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define ON_PATH_SIZED(name, type)                                                             \
    int name(const char* path, type size) {                                                   \
        return around(at(AT_FDCWD, path), true,                                               \
                      [&] { return real<int(const char*, type)>(#name)(path, size); });       \
    }
ON_PATH_SIZED(truncate, off_t)
ON_PATH_SIZED(truncate64, off64_t)

int fsync(int handle) {
    return around(link_of(handle), false, [&] { return real<int(int)>("fsync")(handle); });
}

int mkdir(const char* path, mode_t permissions) {
    return around(at(AT_FDCWD, path), true,
                  [&] { return real<int(const char*, mode_t)>("mkdir")(path, permissions); });
}

int rename(const char* from, const char* to) {
    return around(at(AT_FDCWD, to), false,
                  [&] { return real<int(const char*, const char*)>("rename")(from, to); });
}

int renameat(int one, const char* from, int other, const char* to) {
    return around(at(other, to), false, [&] {
        return real<int(int, const char*, int, const char*)>("renameat")(one, from, other, to);
    });
}

// Deletions never fail here (nothing is lost when one does), but a process may die at one.
int unlink(const char* path) {
    if (mode == 'f' || mode == 'd') return real<int(const char*)>("unlink")(path);
    return around(at(AT_FDCWD, path), false,
                  [&] { return real<int(const char*)>("unlink")(path); });
}

int unlinkat(int place, const char* path, int flags) {
    auto call = [&] { return real<int(int, const char*, int)>("unlinkat")(place, path, flags); };
    return mode == 'f' || mode == 'd' ? call() : around(at(place, path), false, call);
}

int rmdir(const char* path) {
    if (mode == 'f' || mode == 'd') return real<int(const char*)>("rmdir")(path);
    return around(at(AT_FDCWD, path), false,
                  [&] { return real<int(const char*)>("rmdir")(path); });
}

}  // extern "C"
