// How tests control the emulated machine.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <string>
#include <vector>

namespace emulated {

struct DeviceModel {
  int major, minor;
  std::size_t memory;
};

struct Counts {
  long calls = 0;                // of the runtime, since the reset
  std::map<int, long> launches;  // of each device
  long busiest = 0;              // streams that had something queued at the same time, at most
  long freed_in_use = 0;         // a fault: memory given back that something queued touches, or a busy stream
  long allocations = 0, streams = 0, queued = 0;  // now
};

// Makes a machine with these devices. `eagerness` is the probability that devices go on with queued work at
// each call. `together`: none copies anything before each has something to copy.
void reset(std::vector<DeviceModel> devices, std::uint64_t seed, double eagerness, bool together);
// The n-th call of this name ("any": of anything) from now on fails with the code.
void fail(const std::string& call, long n, cudaError_t code);
Counts counts();

}  // namespace emulated
