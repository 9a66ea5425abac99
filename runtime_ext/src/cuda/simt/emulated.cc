// Implementation of emulated.h: fibers, their order, and their waits.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "cuda/simt/guarded.h"
#include "cuda/simt/simt.h"

namespace dualbinary::simt::emulated {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;
constexpr int kWarpgroup = 128;
// 6e4 as float16, 1e36 as float32. Not NaN: kernels rightly compute again what is not finite.
constexpr int kPoison = 0x7b;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "emulated kernel: %s\n", message);
  std::abort();
}

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

// Threads that meet: all of a thread block, of a warpgroup or of a warp.
struct Meeting {
  int size = 0;
  int arrived = 0;
  unsigned round = 0;
  Meet meet = nullptr;
  std::vector<void*> arguments;
};

// A product of a warpgroup that has not been computed yet.
struct Wgmma {
  std::array<float*, kWarpgroup> d;
  std::array<const std::uint32_t*, kWarpgroup> a;
  const void* b;
  int tokens;
  bool add;
};

// The matrix B of a wgmma: 16 float16 values of a token, through the 128-byte swizzle, which permutes the chunks of 16
// bytes of an address by the address itself.
void read_token(const void* start, int token, float (&values)[16]) {
  for (int i = 0; i < 16; ++i) {
    auto address = reinterpret_cast<std::uintptr_t>(start) + static_cast<std::uintptr_t>(128 * token + 2 * i);
    address ^= (address >> 7 & 7) << 4;
    values[i] = from_f16(*reinterpret_cast<const std::uint16_t*>(address));
  }
}

void compute(const Wgmma& product) {
  float a[64][16];
  for (int thread = 0; thread < kWarpgroup; ++thread) {
    const int row = 16 * (thread / kLanes) + thread % kLanes / 4;
    const int t = thread % 4;
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t word = product.a[static_cast<std::size_t>(thread)][i / 2];
      const auto bits = static_cast<std::uint16_t>(word >> 16 * (i % 2));
      a[row + 8 * (i / 2 % 2)][2 * t + 8 * (i / 4) + i % 2] = from_f16(bits);
    }
  }
  for (int token = 0; token < product.tokens; ++token) {
    float b[16];
    read_token(product.b, token, b);
    for (int row = 0; row < 64; ++row) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k];
      const int thread = kLanes * (row / 16) + 4 * (row % 8) + token % 8 / 2;
      float& d = product.d[static_cast<std::size_t>(thread)][4 * (token / 8) + 2 * (row / 8 % 2) + token % 2];
      d = product.add ? d + sum : sum;
    }
  }
}

struct Fiber {
  jmp_buf state;
  bool started = false;
  bool finished = false;
  Place place;
  std::vector<Copy> copies;              // not committed yet
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
};

constexpr std::size_t kCopyBytes = 16;

// One thread block at a time, on one thread of the CPU.
class Machine {
 public:
  void run_block(const Launch& shape, unsigned block, const std::function<void()>& kernel) {
    prepare(shape, block);
    kernel_ = &kernel;
    // Every other thread block lets a warp go as far as it can before the next one has its turn, the others are fair.
    const bool greedy = block % 2 == 0;
    left_ = shape.threads;
    while (left_ > 0) {
      bool moved = false;
      for (std::size_t first = 0; first < order_.size(); first += kLanes) {
        do {
          progress_ = false;
          run_warp(first);
          moved = moved || progress_;
        } while (greedy && progress_);
      }
      if (!moved) fail("threads wait for ever: a barrier or a collective instruction that not all of them reach");
    }
  }

  Fiber& running() { return *running_; }

  void meet(Meeting& meeting, int index, Meet meet, void* argument) {
    progress_ = true;
    if (meeting.arrived == 0) meeting.meet = meet;
    if (meeting.meet != meet) fail("threads of one group wait for different instructions");
    meeting.arguments[static_cast<std::size_t>(index)] = argument;
    const unsigned round = meeting.round;
    if (++meeting.arrived == meeting.size) {
      if (meet != nullptr) meet(meeting.arguments.data());
      meeting.arrived = 0;
      ++meeting.round;
    }
    while (meeting.round == round) yield();
  }

  static constexpr std::size_t kMaxWarpgroups = 8;
  Meeting block;
  std::array<Meeting, 4 * kMaxWarpgroups> warps;
  std::array<Meeting, kMaxWarpgroups> warpgroups;
  std::array<std::deque<std::vector<Wgmma>>, kMaxWarpgroups> products;  // groups, oldest first; the last one is open

 private:
  // Each lane until it waits.
  void run_warp(std::size_t first) {
    for (std::size_t i = first; i < first + kLanes; ++i) {
      Fiber& fiber = *fibers_[static_cast<std::size_t>(order_[i])];
      if (fiber.finished) continue;
      resume(fiber);
      if (fiber.finished) --left_;
    }
  }

  // Warps, and the lanes of each, in a random order.
  void shuffle(unsigned number) {
    std::minstd_rand random(number + 1);
    std::vector<int> warps(order_.size() / kLanes);
    for (std::size_t i = 0; i < warps.size(); ++i) warps[i] = static_cast<int>(i);
    std::shuffle(warps.begin(), warps.end(), random);
    for (std::size_t i = 0; i < order_.size(); ++i) {
      order_[i] = warps[i / kLanes] * kLanes + static_cast<int>(i) % kLanes;
    }
    for (auto warp = order_.begin(); warp != order_.end(); warp += kLanes) std::shuffle(warp, warp + kLanes, random);
  }

  void prepare(const Launch& shape, unsigned number) {
    shared_ = allocate_guarded(std::max(shape.shared_bytes, 16u));
    std::memset(shared_.get(), kPoison, shape.shared_bytes);
    const auto threads = static_cast<int>(shape.threads);
    while (fibers_.size() < shape.threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      stacks_.push_back(std::make_unique<std::uint8_t[]>(kStackBytes));
    }
    order_.resize(shape.threads);
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = *fibers_[static_cast<std::size_t>(i)];
      fiber.started = fiber.finished = false;
      fiber.copies.clear();
      fiber.groups.clear();
      fiber.place = {i, static_cast<int>(number % shape.grid.x), static_cast<int>(number / shape.grid.x),
                     static_cast<int>(shape.grid.x), static_cast<std::uint8_t*>(shared_.get())};
    }
    shuffle(number);
    const auto reset = [](Meeting& meeting, int size) {
      meeting.size = size;
      meeting.arrived = 0;
      meeting.arguments.assign(static_cast<std::size_t>(std::max(size, 0)), nullptr);
    };
    reset(block, threads);
    for (Meeting& warp : warps) reset(warp, kLanes);
    for (Meeting& group : warpgroups) reset(group, kWarpgroup);
    for (auto& groups : products) groups.assign(1, {});
  }

  // makecontext() starts a fiber on its own stack; from then on _setjmp and _longjmp switch, without system calls.
  void resume(Fiber& fiber) {
    running_ = &fiber;
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    progress_ = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks_[static_cast<std::size_t>(fiber.place.thread)].get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, &Machine::enter, 0);
    setcontext(&context);
  }

  void yield() {
    if (_setjmp(running_->state) == 0) _longjmp(scheduler_, 1);
  }

  static void enter();

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<std::unique_ptr<std::uint8_t[]>> stacks_;
  std::vector<int> order_;
  std::unique_ptr<void, ReleaseGuarded> shared_;
  const std::function<void()>* kernel_ = nullptr;
  Fiber* running_ = nullptr;
  jmp_buf scheduler_;
  bool progress_ = false;
  unsigned left_ = 0;
};

thread_local Machine* machine = nullptr;

void Machine::enter() {
  Machine& here = *machine;
  (*here.kernel_)();
  here.running_->finished = true;
  here.progress_ = true;
  _longjmp(here.scheduler_, 1);
}

void perform(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (copy.valid) {
      std::memcpy(copy.to, copy.from, kCopyBytes);
    } else {
      std::memset(copy.to, 0, kCopyBytes);
    }
  }
}

}  // namespace

const Place& place() { return machine->running().place; }

void meet_warp(Meet meet, void* argument) {
  const int thread = place().thread;
  machine->meet(machine->warps[static_cast<std::size_t>(thread / kLanes)], thread % kLanes, meet, argument);
}

void meet_warpgroup(Meet meet, void* argument) {
  const int thread = place().thread;
  machine->meet(machine->warpgroups[static_cast<std::size_t>(thread / kWarpgroup)], thread % kWarpgroup, meet,
                argument);
}

namespace {

std::deque<std::vector<Wgmma>>& products() {
  return machine->products[static_cast<std::size_t>(place().thread / kWarpgroup)];
}

struct WgmmaPart {
  float* d;
  const std::uint32_t* a;
  const void* b;
  int tokens;
  bool add;
};

void issue_together(void* const* arguments) {
  Wgmma product{};
  for (std::size_t thread = 0; thread < kWarpgroup; ++thread) {
    const auto& part = *static_cast<const WgmmaPart*>(arguments[thread]);
    product.d[thread] = part.d;
    product.a[thread] = part.a;
    product.b = part.b;
    product.tokens = part.tokens;
    product.add = part.add;
  }
  products().back().push_back(product);
}

void commit_together(void* const*) { products().emplace_back(); }

void wait_together(void* const* arguments) {
  auto& groups = products();
  while (static_cast<int>(groups.size()) - 1 > *static_cast<const int*>(arguments[0])) {
    for (const Wgmma& product : groups.front()) compute(product);
    groups.pop_front();
  }
}

}  // namespace

void wgmma_issue(float* d, const std::uint32_t* a, const void* b, int tokens, bool add) {
  if (reinterpret_cast<std::uintptr_t>(b) % 1024 >= 128) fail("B of a wgmma does not begin with a group of lines");
  WgmmaPart part{d, a, b, tokens, add};
  meet_warpgroup(issue_together, &part);
}

void wgmma_commit() { meet_warpgroup(commit_together, nullptr); }

void wgmma_wait(int pending) { meet_warpgroup(wait_together, &pending); }

void meet_block() { machine->meet(machine->block, place().thread, nullptr, nullptr); }

void copy_later(void* to, const void* from, bool valid) {
  if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % kCopyBytes != 0) {
    fail("an asynchronous copy is not aligned to 16 bytes");
  }
  std::memset(to, kPoison, kCopyBytes);
  machine->running().copies.push_back({to, from, valid});
}

void commit() {
  Fiber& fiber = machine->running();
  fiber.groups.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}

void wait(int pending) {
  Fiber& fiber = machine->running();
  while (static_cast<int>(fiber.groups.size()) > pending) {
    perform(fiber.groups.front());
    fiber.groups.pop_front();
  }
}

void run(const Launch& shape, const std::function<void()>& kernel) {
  const unsigned blocks = shape.grid.x * shape.grid.y;
  if (blocks == 0 || shape.threads == 0 || shape.threads % kLanes != 0) fail("a launch of an impossible shape");
  std::atomic<unsigned> next{0};
  const auto work = [&] {
    Machine own;
    machine = &own;
    for (unsigned block = next++; block < blocks; block = next++) own.run_block(shape, block, kernel);
    machine = nullptr;
  };
  std::vector<std::thread> threads;
  const unsigned count = std::min(blocks, std::max(1u, std::thread::hardware_concurrency()));
  for (unsigned i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

std::uint16_t to_half(float value) {
  const std::uint32_t bits = bits_of(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(value);
  if (value != value) return 0x7fff;
  if (magnitude >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7c00);
  const int exponent = std::max(exponent_of(magnitude), -14);
  // In units of the last place, which a float holds exactly; the hidden bit carries into the exponent.
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + units));
}

namespace {

float value_of_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int mantissa = bits & 0x3ff;
  float value;
  if (exponent == 0x1f) {
    value = mantissa != 0 ? not_a_number() : std::numeric_limits<float>::infinity();
  } else {
    value = std::ldexp(static_cast<float>(mantissa + (exponent != 0 ? 1024 : 0)), std::max(exponent, 1) - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

}  // namespace

float from_f16(std::uint16_t bits) {
  static const auto values = [] {
    std::vector<float> all(1 << 16);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = value_of_half(static_cast<std::uint16_t>(i));
    return all;
  }();
  return values[bits];
}

}  // namespace dualbinary::simt::emulated
