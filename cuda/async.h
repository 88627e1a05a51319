// Copies from global to shared memory that go on while their thread does, from Ampere on; before it they wait.
//
// A thread's copies since the last commit_copies() are a group. After wait_for_copies(n) all but its n latest groups
// have arrived, for itself: others need a barrier as well.
#pragma once

#ifndef EMULATED  // tests have their own

template <int BYTES>
__device__ inline void copy_async(void* to, const void* from) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "a copy has 4, 8 or 16 bytes, and is aligned to that");
#if __CUDA_ARCH__ >= 800
    const unsigned address = unsigned(__cvta_generic_to_shared(to));
    if (BYTES == 16)  // not by way of the first cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(BYTES) : "memory");
#else
    if (BYTES == 16)
        *static_cast<int4*>(to) = *static_cast<const int4*>(from);
    else
        for (int i = 0; i < BYTES / 4; ++i) static_cast<int*>(to)[i] = static_cast<const int*>(from)[i];
#endif
}

__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

__device__ inline void wait_for_copies(int pending) {
#if __CUDA_ARCH__ >= 800
    if (pending <= 0)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else if (pending == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else if (pending == 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 3;" ::: "memory");
#endif
}

#endif
