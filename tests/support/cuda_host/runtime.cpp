// Devices made of ordinary memory, with a scheduler that guarantees no more than CUDA's streams do.
//
// - The work of a stream runs in its order, but at a random time: at the next call of anything, or only when
//   the stream is waited for. A missing wait therefore shows as wrong bytes, for some seeds.
// - Memory of a device can be touched only while that device runs something (otherwise: a segmentation
//   fault), and the arguments of kernels may hold addresses of their own device only.
// - Copies are from and to pinned memory. New memory holds noise. Freeing memory that something queued touches is
//   counted as a fault.
#include <sys/mman.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "fibers.hpp"
#include "runtime.hpp"

struct Operation {
  std::function<void()> run;
  std::vector<const void*> touched;  // addresses in the memory that it reads or writes
};

struct Stream {
  int device;
  std::deque<Operation> queue;
};

namespace emulated {
namespace {

struct Block {
  std::size_t size;
  int device;  // or host
  int owner;   // the device that was current
};
constexpr int host = -1;

struct Machine {
  std::recursive_mutex guard;
  std::mt19937_64 chance;
  double eagerness = 0;
  std::vector<DeviceModel> devices;
  std::map<char*, Block> memory;
  std::vector<Stream*> streams;
  std::string failing_call;
  long failing_in = 0;
  cudaError_t failure = cudaSuccess, last = cudaSuccess;
  Counts counts;
  std::mutex meeting;
  std::condition_variable somebody_came;
  std::set<int> met;
  std::size_t expected = 0;
} machine;
thread_local int current = 0;

using Lock = std::lock_guard<std::recursive_mutex>;

bool chances(double probability) { return std::uniform_real_distribution<>()(machine.chance) < probability; }

void run_one(Stream& stream) {
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  const auto protect = [&](int rights) {
    for (const auto& [start, block] : machine.memory)
      if (block.device == stream.device) mprotect(start, block.size, rights);
  };
  protect(PROT_READ | PROT_WRITE);
  operation.run();
  protect(PROT_NONE);
}

std::vector<Stream*> busy() {
  std::vector<Stream*> found;
  for (Stream* stream : machine.streams)
    if (!stream->queue.empty()) found.push_back(stream);
  return found;
}

void progress() {
  const std::vector<Stream*> found = busy();
  if (!found.empty()) run_one(*found[machine.chance() % found.size()]);
}

// The beginning of every call: devices may go on with their work meanwhile, and a test may have arranged that
// this call fails.
cudaError_t enter(const char* name) {
  ++machine.counts.calls;
  while (chances(machine.eagerness) && !busy().empty()) progress();
  if (machine.failing_call.empty() || (machine.failing_call != "any" && machine.failing_call != name))
    return cudaSuccess;
  if (--machine.failing_in != 0) return cudaSuccess;
  machine.failing_call.clear();
  return machine.last = machine.failure;
}

bool inside(const void* data, std::size_t size, int device) {
  auto* start = static_cast<char*>(const_cast<void*>(data));
  auto next = machine.memory.upper_bound(start);
  if (next == machine.memory.begin()) return false;
  const auto& [first, block] = *--next;
  return block.device == device && start + size <= first + block.size;
}

// Whether something queued touches this memory.
bool touched(const char* start, std::size_t size) {
  for (const Stream* stream : busy())
    for (const Operation& operation : stream->queue)
      for (const void* address : operation.touched)
        if (const auto* place = static_cast<const char*>(address); start <= place && place < start + size)
          return true;
  return false;
}

std::size_t used(int device) {
  std::size_t sum = 0;
  for (const auto& [start, block] : machine.memory) sum += block.device == device ? block.size : 0;
  return sum;
}

cudaError_t allocate(const char* call, void** data, std::size_t size, int device, std::size_t limit) {
  const Lock lock(machine.guard);
  if (const cudaError_t code = enter(call)) return code;
  size = (size + 4095) / 4096 * 4096;
  if (used(device) + size > limit) return machine.last = cudaErrorMemoryAllocation;
  void* place = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(place, static_cast<int>(machine.chance() % 256), size);
  if (device != host) mprotect(place, size, PROT_NONE);
  machine.memory[static_cast<char*>(place)] = {size, device, current};
  *data = place;
  return cudaSuccess;
}

cudaError_t deallocate(const char* call, void* data, int device) {
  const Lock lock(machine.guard);
  if (data == nullptr) return cudaSuccess;
  const cudaError_t code = enter(call);
  const auto found = machine.memory.find(static_cast<char*>(data));
  if (found == machine.memory.end() || found->second.device != device)
    return machine.last = cudaErrorInvalidValue;
  if (touched(found->first, found->second.size)) ++machine.counts.freed_in_use;
  munmap(data, found->second.size);
  machine.memory.erase(found);
  return code;
}

cudaError_t queue(const char* call, Stream* stream, bool sound, Operation operation) {
  if (const cudaError_t code = enter(call)) return code;
  if (!sound || stream == nullptr || stream->device != current) return machine.last = cudaErrorInvalidValue;
  stream->queue.push_back(std::move(operation));
  machine.counts.busiest = std::max(machine.counts.busiest, static_cast<long>(busy().size()));
  return cudaSuccess;
}

// The words of arguments that look like addresses. Numbers stay far below 2^44, and addresses of a 64-bit Linux
// process are above it.
std::vector<const void*> addresses(std::initializer_list<Argument> arguments) {
  std::vector<const void*> found;
  for (const Argument& argument : arguments)
    for (std::size_t at = 0; at + sizeof(std::uint64_t) <= argument.size; at += sizeof(std::uint64_t)) {
      std::uint64_t word;
      std::memcpy(&word, static_cast<const char*>(argument.data) + at, sizeof word);
      if (word >> 44 != 0) found.push_back(reinterpret_cast<const void*>(word));
    }
  return found;
}

// If devices are to begin together: waits until each of them has come here with its first part.
void meet(int device) {
  std::unique_lock lock(machine.meeting);
  machine.met.insert(device);
  machine.somebody_came.notify_all();
  machine.somebody_came.wait(lock, [] { return machine.met.size() >= machine.expected; });
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& shape, std::initializer_list<Argument> arguments,
                   std::function<void()> thread) {
  const Lock lock(machine.guard);
  const unsigned groups = shape.gridDim.x, threads = shape.blockDim.x;
  const std::vector<const void*> given = addresses(arguments);
  const bool own = std::all_of(given.begin(), given.end(),
                               [](const void* address) { return inside(address, 1, current); });
  const bool sound = groups > 0 && threads > 0 && threads <= 1024 && own;
  const auto run = [=, thread = std::move(thread)] { run_grid(groups, threads, thread, machine.chance); };
  const cudaError_t code = queue("cudaLaunchKernelEx", shape.stream, sound, {run, given});
  if (code == cudaSuccess) ++machine.counts.launches[current];
  return code;
}

void reset(std::vector<DeviceModel> devices, std::uint64_t seed, double eagerness, bool together) {
  const Lock lock(machine.guard);
  machine.devices = std::move(devices);
  machine.chance.seed(seed);
  machine.eagerness = eagerness;
  machine.failing_call.clear();
  machine.counts = {};
  machine.met.clear();
  machine.expected = together ? machine.devices.size() : 0;
}

void fail(const std::string& call, long in, cudaError_t code) {
  const Lock lock(machine.guard);
  machine.failing_call = call;
  machine.failing_in = in;
  machine.failure = code;
}

Counts counts() {
  const Lock lock(machine.guard);
  Counts found = machine.counts;
  found.allocations = static_cast<long>(machine.memory.size());
  found.streams = static_cast<long>(machine.streams.size());
  found.queued = static_cast<long>(busy().size());
  return found;
}

}  // namespace emulated

using namespace emulated;

cudaError_t cudaGetDeviceCount(int* count) {
  const Lock lock(machine.guard);
  if (const cudaError_t code = enter("cudaGetDeviceCount")) return code;
  *count = static_cast<int>(machine.devices.size());
  return machine.devices.empty() ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const Lock lock(machine.guard);
  if (const cudaError_t code = enter("cudaGetDeviceProperties")) return code;
  const DeviceModel& model = machine.devices.at(device);
  *properties = {{}, model.major, model.minor, model.memory};
  std::strcpy(properties->name, "Emulated");
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Lock lock(machine.guard);
  if (const cudaError_t code = enter("cudaDeviceGetAttribute")) return code;
  const DeviceModel& model = machine.devices.at(device);
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? model.major : model.minor;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  const Lock lock(machine.guard);
  if (const cudaError_t code = enter("cudaSetDevice")) return code;
  current = device;
  return static_cast<std::size_t>(device) < machine.devices.size() ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetLastError() {
  const Lock lock(machine.guard);
  return std::exchange(machine.last, cudaSuccess);
}

const char* cudaGetErrorString(cudaError_t code) {
  static const std::map<cudaError_t, const char*> texts = {
      {cudaErrorMemoryAllocation, "out of memory"},
      {cudaErrorNoDevice, "no CUDA-capable device is detected"},
      {cudaErrorIllegalAddress, "an illegal memory access was encountered"}};
  return texts.contains(code) ? texts.at(code) : "another error";
}

cudaError_t cudaMalloc(void** data, std::size_t size) {
  return allocate("cudaMalloc", data, size, current, machine.devices.at(current).memory);
}
cudaError_t cudaFree(void* data) { return deallocate("cudaFree", data, current); }
cudaError_t cudaMallocHost(void** data, std::size_t size) {
  return allocate("cudaMallocHost", data, size, host, ~std::size_t{0});
}
cudaError_t cudaFreeHost(void* data) { return deallocate("cudaFreeHost", data, host); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Lock lock(machine.guard);
  if (const cudaError_t code = enter("cudaStreamCreateWithFlags")) return code;
  machine.streams.push_back(*stream = new Stream{current, {}});
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(machine.guard);
  const cudaError_t code = enter("cudaStreamDestroy");
  if (!stream->queue.empty()) ++machine.counts.freed_in_use;
  std::erase(machine.streams, stream);
  delete stream;
  return code;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(machine.guard);
  const cudaError_t code = enter("cudaStreamSynchronize");
  while (!stream->queue.empty()) chances(machine.eagerness) ? progress() : run_one(*stream);
  return code;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  meet(current);
  const Lock lock(machine.guard);
  const bool in = kind == cudaMemcpyHostToDevice;
  const bool sound = inside(to, size, in ? current : host) && inside(from, size, in ? host : current);
  return queue("cudaMemcpyAsync", stream, sound, {[=] { std::memcpy(to, from, size); }, {to, from}});
}

cudaError_t cudaMemsetAsync(void* data, int value, std::size_t size, cudaStream_t stream) {
  const Lock lock(machine.guard);
  return queue("cudaMemsetAsync", stream, inside(data, size, current),
               {[=] { std::memset(data, value, size); }, {data}});
}
