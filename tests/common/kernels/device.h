// A GPU, emulated on the CPU: tests include this file, then a source of cuda/, then name its kernels with EMULATE.
//
// The threads of a block are fibres: one runs until it must wait for others, then another one does, in an order that
// is drawn anew whenever all had to wait (`device_order` chooses). So a missing barrier shows: what a thread should
// have waited for has often not happened yet, or what it still needs has been overwritten, whatever the number of
// processors. What is in shared memory before a block writes to it is NaN (-1 for whole numbers), asynchronous copies
// arrive no earlier than they are waited for, and atomic operations let other threads go first.
//
// What no GPU promises is a fault, which `device_fault` returns: threads that wait for one that has ended or waits for
// something else, and writes beyond the shared memory that was asked for.
//
// Sources may use: threadIdx, blockIdx, blockDim, gridDim; `extern __shared__ double shared_memory[]`, or variables
// `static __shared__` of functions that are no templates; __syncthreads, __syncwarp, shuffles, votes, reductions of
// whole numbers; atomics; cuda/async.h; and the little arithmetic below.
#pragma once

#include <csetjmp>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#define EMULATED 1
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ __attribute__((section("device_shared")))

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

static dim3 threadIdx, blockIdx, blockDim, gridDim;

constexpr std::size_t DEVICE_SHARED = 228 * 1024;
alignas(128) __shared__ double shared_memory[DEVICE_SHARED / sizeof(double)] = {};
extern "C" __attribute__((visibility("hidden"))) unsigned char __start_device_shared[], __stop_device_shared[];

namespace device {

constexpr std::size_t STACK = 256 * 1024;
constexpr unsigned WARP = 32;
constexpr unsigned char GARBAGE = 0xff;

enum class Wait { nothing, turn, warp, block, end };

struct Copy {
    void* to;
    const void* from;
    int bytes;
    int group;
};

struct Fibre {
    ucontext_t context;             // where it begins
    std::jmp_buf place;             // where it goes on
    bool begun = false;
    dim3 thread;
    Wait wait = Wait::nothing;
    unsigned mask = 0;              // of the lanes that a warp's barrier is for
    unsigned char box[16] = {};     // what a shuffle passes on
    int groups = 0;                 // of asynchronous copies that were committed
    std::vector<Copy> copies;
};

static std::jmp_buf scheduler;
static std::vector<Fibre> fibres;
static Fibre* running = nullptr;
static int order = 2;  // 0: as they are numbered, 1: the other way round, else drawn with this seed
static char fault[200] = "";
static int votes[3];

inline unsigned rank(const Fibre& fibre) { return unsigned(&fibre - fibres.data()); }

// Lets the other threads run until the scheduler comes back. (swapcontext would do, but asks the kernel each time.)
__noinline__ inline void pause(Wait wait) {
    running->wait = wait;
    if (!_setjmp(running->place)) _longjmp(scheduler, 1);
}

__noinline__ inline void resume() {
    if (_setjmp(scheduler)) return;
    if (running->begun) _longjmp(running->place, 1);
    running->begun = true;
    setcontext(&running->context);
}

inline Fibre* lane(unsigned number) {
    const unsigned index = rank(*running) / WARP * WARP + number;
    return index < fibres.size() ? &fibres[index] : nullptr;
}

inline void meet(unsigned mask) {
    running->mask = mask;
    pause(Wait::warp);
}

// Whether all that a fibre waits for have arrived.
inline bool complete(const Fibre& fibre) {
    if (fibre.wait == Wait::block)
        return std::all_of(fibres.begin(), fibres.end(), [](const Fibre& f) { return f.wait == Wait::block; });
    const unsigned first = rank(fibre) / WARP * WARP;
    for (unsigned i = 0; i < WARP && first + i < fibres.size(); ++i) {
        const Fibre& other = fibres[first + i];
        if (fibre.mask >> i & 1 && (other.wait != Wait::warp || other.mask != fibre.mask)) return false;
    }
    return true;
}

// Lets those go on that no longer wait; whether there are any.
inline bool release() {
    std::vector<Fibre*> free;
    for (Fibre& fibre : fibres)
        if (fibre.wait == Wait::turn || ((fibre.wait == Wait::warp || fibre.wait == Wait::block) && complete(fibre)))
            free.push_back(&fibre);
    for (Fibre* fibre : free) fibre->wait = Wait::nothing;
    return !free.empty();
}

static const void* current;  // the kernel

template <class Kernel>
void enter() {
    (*static_cast<const Kernel*>(current))();
    pause(Wait::end);
}

template <class Kernel>
void run_block(const Kernel& kernel, char* stacks, std::mt19937& random) {
    current = &kernel;
    for (unsigned i = 0; i < fibres.size(); ++i) {
        Fibre& fibre = fibres[i];
        fibre.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        fibre.wait = Wait::nothing;
        fibre.begun = false;
        fibre.groups = 0;
        fibre.copies.clear();
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = stacks + i * STACK;
        fibre.context.uc_stack.ss_size = STACK;
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, enter<Kernel>, 0);
    }
    std::fill(votes, votes + 3, 0);
    std::vector<unsigned> turns(fibres.size());
    for (unsigned i = 0; i < turns.size(); ++i) turns[i] = order == 1 ? unsigned(turns.size()) - 1 - i : i;
    do {
        if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
        for (unsigned i : turns) {
            if (fibres[i].wait != Wait::nothing) continue;
            running = &fibres[i];
            threadIdx = running->thread;
            resume();
        }
    } while (release());
    for (const Fibre& fibre : fibres)
        if (fibre.wait != Wait::end && !*fault)
            std::snprintf(fault, sizeof fault, "block %u: thread %u waits for ever for the others of its %s", blockIdx.x,
                          rank(fibre), fibre.wait == Wait::block ? "block" : "warp");
}

// Runs a kernel, a function without arguments here, with `shared` bytes of shared memory.
template <class Kernel>
void launch(dim3 blocks, dim3 threads, std::size_t shared, const Kernel& kernel) {
    blockDim = threads, gridDim = blocks;
    fibres = std::vector<Fibre>(std::size_t(threads.x) * threads.y * threads.z);
    const std::size_t room = fibres.size() * STACK;
    void* stacks = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    std::mt19937 random(order);
    // What is beyond the shared memory that was asked for must stay as it is: some of it is looked at.
    auto* memory = reinterpret_cast<unsigned char*>(shared_memory);
    const std::size_t looked_at = std::min(DEVICE_SHARED, shared + 4096);
    if (stacks == MAP_FAILED || shared > DEVICE_SHARED || fibres.size() > 1024)
        std::snprintf(fault, sizeof fault, "%zu threads with %zu bytes are too many", fibres.size(), shared);
    for (blockIdx.z = 0; blockIdx.z < blocks.z && !*fault; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < blocks.y && !*fault; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < blocks.x && !*fault; ++blockIdx.x) {
                std::fill(__start_device_shared, memory, GARBAGE);
                std::fill(memory, memory + looked_at, GARBAGE);
                std::fill(memory + DEVICE_SHARED, __stop_device_shared, GARBAGE);
                run_block(kernel, static_cast<char*>(stacks), random);
                if (!std::all_of(memory + shared, memory + looked_at, [](unsigned char x) { return x == GARBAGE; }))
                    std::snprintf(fault, sizeof fault, "block %u writes beyond its %zu bytes of shared memory",
                                  blockIdx.x, shared);
            }
    if (stacks != MAP_FAILED) munmap(stacks, room);
}

// A kernel with the addresses of its arguments, as the driver takes them.
template <class... A, std::size_t... I>
void start(void (*kernel)(A...), const unsigned* blocks, const unsigned* threads, std::size_t shared, void** arguments,
           std::index_sequence<I...>) {
    launch({blocks[0], blocks[1], blocks[2]}, {threads[0], threads[1], threads[2]}, shared,
           [=] { kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...); });
}
template <class... A>
void start(void (*kernel)(A...), const unsigned* blocks, const unsigned* threads, std::size_t shared,
           void** arguments) {
    start(kernel, blocks, threads, shared, arguments, std::index_sequence_for<A...>());
}

// What another lane has to pass on, in a warp of lanes that all call this.
template <class T, class Source>
T exchange(unsigned mask, T value, Source source) {
    static_assert(sizeof(T) <= sizeof(Fibre::box));
    const unsigned own = rank(*running) % WARP;
    std::memcpy(running->box, &value, sizeof(T));
    meet(mask);
    const Fibre* from = lane(source(own));
    T other = value;
    if (from) std::memcpy(&other, from->box, sizeof(T));
    meet(mask);
    return other;
}

template <class T, class Combine>
T reduce(unsigned mask, T value, Combine combine) {
    std::memcpy(running->box, &value, sizeof(T));
    meet(mask);
    bool first = true;
    T result = value;
    for (unsigned i = 0; i < WARP; ++i) {
        if (!(mask >> i & 1) || !lane(i)) continue;
        T other;
        std::memcpy(&other, lane(i)->box, sizeof(T));
        result = first ? other : combine(result, other);
        first = false;
    }
    meet(mask);
    return result;
}

template <class T, class Change>
T change(T* address, Change operation) {
    pause(Wait::turn);
    const T old = *address;
    *address = operation(old);
    return old;
}

inline int votes_of_block(int vote, int which) {
    votes[which] += vote != 0;
    pause(Wait::block);
    const int sum = votes[which];
    pause(Wait::block);
    votes[which] = 0;
    pause(Wait::block);
    return sum;
}

}  // namespace device

#define EMULATE(kernel)                                                                                   \
    extern "C" void run_##kernel(const unsigned* blocks, const unsigned* threads, std::size_t shared,     \
                                 void** arguments) {                                                      \
        device::start(kernel, blocks, threads, shared, arguments);                                        \
    }

// What went wrong since the last call, or an empty text.
extern "C" __attribute__((used)) const char* device_fault() {
    static char last[sizeof device::fault];
    std::memcpy(last, device::fault, sizeof last);
    *device::fault = 0;
    return last;
}

// 0: threads run as they are numbered, 1: the other way round, else in an order drawn with this seed.
extern "C" __attribute__((used)) void device_order(int order) { device::order = order; }

// Barriers, shuffles, votes

inline void __syncthreads() { device::pause(device::Wait::block); }
inline int __syncthreads_count(int vote) { return device::votes_of_block(vote, 0); }
inline int __syncthreads_or(int vote) { return device::votes_of_block(vote, 1) != 0; }
inline int __syncthreads_and(int vote) { return device::votes_of_block(!vote, 2) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { device::meet(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { device::pause(device::Wait::turn); }

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    return device::exchange(mask, value, [=](unsigned own) { return own / width * width + from % width; });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32) {
    return device::exchange(mask, value, [=](unsigned own) {
        const unsigned other = own ^ distance;
        return other / width > own / width ? own : other;
    });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    return device::exchange(mask, value, [=](unsigned own) { return own % width < distance ? own : own - distance; });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    return device::exchange(mask, value,
                            [=](unsigned own) { return own % width + distance >= unsigned(width) ? own : own + distance; });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
    static_assert(std::is_integral_v<T>);
    return device::reduce(mask, value, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
    static_assert(std::is_integral_v<T>);
    return device::reduce(mask, value, [](T a, T b) { return a < b ? a : b; });
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
    static_assert(std::is_integral_v<T>);
    return device::reduce(mask, value, [](T a, T b) { return T(a + b); });
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    const unsigned own = 1u << device::rank(*device::running) % device::WARP;
    return device::reduce(mask, vote ? own : 0u, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }

// Atomic operations

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
    return device::change(address, [=](T old) { return T(old + value); });
}
template <class T>
T atomicSub(T* address, std::type_identity_t<T> value) {
    return device::change(address, [=](T old) { return T(old - value); });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
    static_assert(std::is_integral_v<T>);
    return device::change(address, [=](T old) { return old > value ? old : value; });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
    static_assert(std::is_integral_v<T>);
    return device::change(address, [=](T old) { return old < value ? old : value; });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
    return device::change(address, [=](T old) { return old | value; });
}
template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
    return device::change(address, [=](T old) { return old & value; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
    return device::change(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
    return device::change(address, [=](T old) { return old == compare ? value : old; });
}

// Asynchronous copies, as in cuda/async.h

template <int BYTES>
void copy_async(void* to, const void* from) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
    if ((std::uintptr_t(to) | std::uintptr_t(from)) % BYTES && !*device::fault)
        std::snprintf(device::fault, sizeof device::fault, "an asynchronous copy of %d bytes is not aligned", BYTES);
    device::running->copies.push_back({to, from, BYTES, device::running->groups});
}
inline void commit_copies() { ++device::running->groups; }
inline void wait_for_copies(int pending) {
    auto& copies = device::running->copies;
    const int last = device::running->groups - pending;
    for (const device::Copy& copy : copies)
        if (copy.group < last) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.erase(std::remove_if(copies.begin(), copies.end(), [=](const device::Copy& c) { return c.group < last; }),
                 copies.end());
}

// Arithmetic

template <class T>
T __ldg(const T* address) {
    return *address;
}
template <class To, class From>
To device_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    std::memcpy(&bits, &value, sizeof(To));
    return bits;
}
inline int __float_as_int(float x) { return device_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return device_bits<unsigned>(x); }
inline float __int_as_float(int x) { return device_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return device_bits<float>(x); }
inline long long __double_as_longlong(double x) { return device_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return device_bits<double>(x); }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return int(std::floor(x)); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
using std::max;
using std::min;
