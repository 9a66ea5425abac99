#include "core/describe.h"

#include <cstdlib>

#include "contract.h"
#include "core/cpu_features.h"
#include "core/dispatch.h"
#include "core/packed.h"
#include "core/spec.h"

namespace dualbinary {
namespace {

// Every string that gets here is a name from this library's own sources, or an ISA name that was found among them.
std::string quoted(const std::string& text) { return "\"" + text + "\""; }

std::string joined(const std::string& list, const std::string& item) {
  return list.empty() ? item : list + ", " + item;
}

std::string kernel_json(const Kernel& kernel) {
  return "{\"name\": " + quoted(kernel.name) + ", \"isa\": " + quoted(isa_name(kernel.isa)) +
         ", \"accuracy_level\": " + std::to_string(kernel.accuracy_level) +
         ", \"min_rows\": " + std::to_string(kernel.min_rows) + ", \"layout\": " + quoted(layout_name(kernel.layout)) +
         ", \"available\": " + (runs_here(kernel) ? "true" : "false") + "}";
}

}  // namespace

const char* version() { return DUALBINARY_VERSION; }

std::string describe() {
  std::string chosen;
  for (const std::int64_t level : {contract::kAttrAccuracyLevel0, contract::kAttrAccuracyLevel4}) {
    const Kernel& kernel = choose_kernel(static_cast<int>(level), contract::kLayoutPlain);
    chosen = joined(chosen, quoted(std::to_string(level)) + ": " + quoted(kernel.name));
  }
  std::string features;
  for (const std::string& name : cpu_features()) features = joined(features, quoted(name));
  std::string kernels;
  for (const Kernel* kernel : inventory()) kernels = joined(kernels, kernel_json(*kernel));
  std::string layouts;
  for (const std::int64_t layout : readable_layouts()) layouts = joined(layouts, quoted(layout_name(layout)));
  const Packed::Usage packed = Packed::usage();
  const char* forced = std::getenv(kIsaVariable);
  return "{\"version\": " + quoted(version()) + ", \"digest\": " + quoted(contract::kDigest) + ", \"cpu_features\": [" +
         features + "], \"forced_isa\": " + (forced == nullptr || *forced == '\0' ? "null" : quoted(forced)) +
         ", \"kernels\": [" + kernels + "], \"layouts\": [" + layouts + "], \"chosen\": {" + chosen +
         "}, \"packed\": {\"copies\": " + std::to_string(packed.copies) +
         ", \"bytes\": " + std::to_string(packed.bytes) + "}}";
}

}  // namespace dualbinary
