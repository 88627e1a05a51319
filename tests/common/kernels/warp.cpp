// Runs cuda/chain.cu on the CPU, one thread per lane, so that tests without a GPU reach its code: its
// indices, its barriers, its reductions.
#include <barrier>
#include <cmath>
#include <thread>
#include <vector>

struct Index3 {
    unsigned x;
};
thread_local Index3 threadIdx, blockIdx;
std::barrier<> lanes_meet(32);

#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(n)

void __syncwarp() { lanes_meet.arrive_and_wait(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
    static T box[32];
    box[threadIdx.x] = value;
    __syncwarp();
    const T other = box[threadIdx.x ^ distance];
    __syncwarp();
    return other;
}

#include "chain.cu"

double shared_memory[1 << 15];

template <class Kernel>
void launch(int blocks, Kernel kernel) {
    std::vector<std::thread> warp;
    for (unsigned lane = 0; lane < 32; ++lane)
        warp.emplace_back([=] {
            threadIdx.x = lane;
            for (int block = 0; block < blocks; ++block) {
                blockIdx.x = block;
                kernel();
                __syncwarp();
            }
        });
    for (std::thread& lane : warp) lane.join();
}

typedef SCALAR S;

extern "C" void run_weigh(int blocks, int labels, S* gamma, S* score, S* weight) {
    launch(blocks, [=] { weigh(labels, gamma, score, weight); });
}

extern "C" void run_messages(int blocks, const Problem* p, S* gamma, S* theta, const Scores<S>* scores, S* message,
                             S* maxima) {
    launch(blocks, [=] { messages(*p, gamma, theta, *scores, message, maxima); });
}

extern "C" void run_marginals(int blocks, const Problem* p, S* theta, S* message, S* out, S* total) {
    launch(blocks, [=] { marginals(*p, theta, message, out, total); });
}

extern "C" void run_collect(int blocks, const Problem* p, S* carried, S* given, S* following, S* total) {
    launch(blocks, [=] { collect(*p, carried, given, following, total); });
}

extern "C" void run_agree(int blocks, const Problem* p, S* total, double step, S* base, S* values, S* out) {
    launch(blocks, [=] { agree(*p, total, step, base, values, out); });
}

extern "C" void run_messages_backward(int blocks, const Problem* p, S* gamma, int by_gamma, S* weight, S* theta,
                                      const Scores<S>* scores, S* message, S* given, S* carried, S* entropies) {
    launch(blocks, [=] {
        messages_backward(*p, gamma, by_gamma, weight, theta, *scores, message, given, carried, entropies);
    });
}

extern "C" void run_scores_backward(int blocks, const Problem* p, S* gamma, int iterations, S* theta,
                                    const Scores<S>* scores, S* message, S* carried, S* left_out, S* right_out) {
    launch(blocks, [=] {
        scores_backward(*p, gamma, iterations, theta, *scores, message, carried, left_out, right_out);
    });
}
