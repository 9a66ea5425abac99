#include "core/describe.h"

#include <cstdlib>

#include "contract.h"
#include "core/cpu_features.h"
#include "core/dispatch.h"
#include "core/json.h"
#include "core/packed.h"
#include "core/spec.h"

namespace dualbinary {
namespace {

using json::quoted;

std::string chosen_json(std::int64_t level) {
  Spec spec{};
  spec.layout = contract::kLayoutPlain;
  spec.accuracy_level = level;
  return quoted(choose_kernel(spec).name);
}

std::string kernel_json(const MatMulKernel* kernel) {
  return json::object({{"name", quoted(kernel->name)},
                       {"isa", quoted(isa_name(kernel->isa))},
                       {"accuracy_level", std::to_string(kernel->accuracy_level)},
                       {"free_levels", json::boolean(kernel->free_levels)},
                       {"even_levels", json::boolean(kernel->even_levels)},
                       {"packed_as", kernel->packed_as == nullptr ? "null" : quoted(kernel->packed_as->name)},
                       {"layout", quoted(layout_name(kernel->layout))},
                       {"available", json::boolean(runs_here(*kernel))}});
}

std::string hadamard_json(const HadamardKernel* kernel) {
  return json::object({{"name", quoted(kernel->name)},
                       {"isa", quoted(isa_name(kernel->isa))},
                       {"available", json::boolean(runs_here(*kernel))}});
}

}  // namespace

const char* version() { return DUALBINARY_VERSION; }

std::string describe() {
  const Packed::Usage packed = Packed::usage();
  const char* forced = std::getenv(kIsaVariable);
  return json::object(
      {{"version", quoted(version())},
       {"digest", quoted(contract::kDigest)},
       {"cpu_features", json::array(cpu_features(), quoted)},
       {"forced_isa", forced == nullptr || *forced == '\0' ? "null" : quoted(forced)},
       {"kernels", json::array(inventory(), kernel_json)},
       {"hadamard_kernels", json::array(hadamard_inventory(), hadamard_json)},
       {"layouts", json::array(readable_layouts(), [](std::int64_t layout) { return quoted(layout_name(layout)); })},
       {"chosen", json::object({{"0", chosen_json(contract::kAttrAccuracyLevel0)},
                                {"4", chosen_json(contract::kAttrAccuracyLevel4)}})},
       {"packed", json::object({{"copies", std::to_string(packed.copies)}, {"bytes", std::to_string(packed.bytes)}})}});
}

}  // namespace dualbinary
