#include "ort/attention_op.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "contract.h"
#include "core/attention_block.h"
#include "core/dispatch.h"
#include "ort/block_node.h"
#include "ort/host_pool.h"
#include "ort/node.h"
#include "ort/node_reader.h"
#include "ort/op_entry.h"
#include "ort/status.h"

namespace dualbinary {
namespace {

using namespace contract::dual_binary_attention;

constexpr ProductPort kQkv{"qkv", kInputQkvPlanes, kInputQkvScales};
constexpr ProductPort kO{"o", kInputOPlanes, kInputOScales};
constexpr int kOutputs = 3;  // Y, present_key, present_value

[[noreturn]] void refuse(const std::string& name, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(name + ": expected " + expected + ", got " + got);
}

// Sizes of a node.
struct Sizes {
  std::int64_t H;
  std::int64_t h;
  std::int64_t g;
  std::int64_t D;

  std::int64_t width() const { return (h + 2 * g) * D; }
};

Sizes read_sizes(const AttributeReader& reader) {
  const Sizes sizes{read_size(reader, kAttrHiddenSize), read_size(reader, kAttrNumHeads),
                    read_size(reader, kAttrKvNumHeads), read_size(reader, kAttrHeadSize, kAttrHeadSizeMinimum)};
  if (sizes.h % sizes.g != 0) {
    refuse(kAttrKvNumHeads, "a divisor of num_heads = " + std::to_string(sizes.h), std::to_string(sizes.g));
  }
  if (sizes.D > kMaxHeadSize || sizes.D % kHeadMultiple != 0) {
    refuse(kAttrHeadSize, "a multiple of 8 up to " + std::to_string(kMaxHeadSize), std::to_string(sizes.D));
  }
  if (sizes.h + 2 * sizes.g > contract::kMaxDimension / sizes.D) {
    refuse(kAttrNumHeads, "at most " + std::to_string(contract::kMaxDimension) + " numbers of query, key and value",
           std::to_string(sizes.h));
  }
  return sizes;
}

Attention read_attention(const AttributeReader& reader, const Sizes& sizes) {
  const auto scale = reader.read_float(kAttrScale);
  if (!scale) throw std::invalid_argument("attribute scale is missing; expected a number");
  const std::int64_t window = reader.read(kAttrLocalWindowSize).value_or(kAttrLocalWindowSizeDefault);
  if (window < 0) refuse(kAttrLocalWindowSize, "0 or more", std::to_string(window));
  const std::int64_t interleaved = reader.read(kAttrRotaryInterleaved).value_or(kAttrRotaryInterleavedDefault);
  if (interleaved != 0 && interleaved != 1) refuse(kAttrRotaryInterleaved, "0 or 1", std::to_string(interleaved));
  return {sizes.h,
          sizes.g,
          sizes.D,
          *scale,
          reader.read_float(kAttrSoftcap).value_or(kAttrSoftcapDefault),
          window,
          interleaved == 1,
          reader.read_float(kAttrEpsilon).value_or(kAttrEpsilonDefault),
          choose_attention_kernel(),
          choose_elementwise_kernel()};
}

CacheType cache_type_of(ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8) return CacheType::kInt8;
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? CacheType::kFloat16 : CacheType::kFloat32;
}

// E of the contract.
std::int64_t row_numbers(ONNXTensorElementDataType type, std::int64_t D) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 ? D + kScaleBytes : D;
}

// Dimensions that are known have to be those expected; -1 stands for any.
void check_dims(const char* name, const std::vector<std::int64_t>& expected, const std::vector<std::int64_t>& got) {
  bool same = expected.size() == got.size();
  for (std::size_t i = 0; same && i < got.size(); ++i) same = expected[i] < 0 || got[i] < 0 || got[i] == expected[i];
  if (!same) refuse(name, "shape " + to_string(expected), to_string(got));
}

// A tensor of a call: null where the node does not have it.
struct Given {
  const OrtValue* value = nullptr;
  TensorInfo info{};
  const void* data = nullptr;
};

Given given(const OrtApi& api, OrtKernelContext* context, int index) {
  Given result;
  check(api, api.KernelContext_GetInput(context, static_cast<std::size_t>(index), &result.value));
  if (result.value == nullptr) return result;
  result.info = read_info(api, result.value);
  result.data = tensor_data(api, result.value);
  return result;
}

class AttentionNode : public NodeInstance {
 public:
  AttentionNode(const OrtApi& api, const OrtKernelInfo* info, const Sizes& sizes, const AttributeReader& reader)
      : sizes_(sizes),
        attention_(read_attention(reader, sizes)),
        qkv_(has_input(api, info, kInputQkvPlanes) ? read_weight(api, info, kQkv, sizes.H, sizes.width()) : nullptr),
        o_(has_input(api, info, kInputOPlanes) ? read_weight(api, info, kO, sizes.h * sizes.D, sizes.H) : nullptr),
        norm_(api, info, kInputNormWeight, "norm_weight", sizes.H),
        qkv_bias_(api, info, kInputQkvBias, "qkv_bias", sizes.width()),
        q_norm_(api, info, kInputQNormWeight, "q_norm_weight", sizes.D),
        k_norm_(api, info, kInputKNormWeight, "k_norm_weight", sizes.D),
        o_bias_(api, info, kInputOBias, "o_bias", sizes.H),
        post_norm_(api, info, kInputPostNormWeight, "post_norm_weight", sizes.H) {
    if ((qkv_ == nullptr) != (o_ == nullptr)) {
      throw std::invalid_argument("qkv_planes and o_planes: expected both or neither");
    }
    const bool parts = norm_.there() || qkv_bias_.there() || o_bias_.there() || post_norm_.there();
    if (qkv_ == nullptr && parts) {
      throw std::invalid_argument("norms of X and biases: expected none without qkv_planes and o_planes");
    }
  }

  void compute(const OrtApi& api, OrtKernelContext* context) const override;

 private:
  void read_cache(const OrtApi& api, OrtKernelContext* context, AttentionCall& call) const;
  void read_tables(const OrtApi& api, OrtKernelContext* context, AttentionCall& call,
                   ONNXTensorElementDataType x_type) const;

  Sizes sizes_;
  Attention attention_;  // without vectors
  std::unique_ptr<Weight> qkv_;
  std::unique_ptr<Weight> o_;
  VectorInput norm_;
  VectorInput qkv_bias_;
  VectorInput q_norm_;
  VectorInput k_norm_;
  VectorInput o_bias_;
  VectorInput post_norm_;
};

// Reads lengths and the past, and asks for outputs of the present's size.
void AttentionNode::read_cache(const OrtApi& api, OrtKernelContext* context, AttentionCall& call) const {
  const Given last_keys = given(api, context, kInputLastKeys);
  const Given longest = given(api, context, kInputLongest);
  check_dims("last_keys", {call.batch}, last_keys.info.dims);
  if (!longest.info.dims.empty()) check_dims("longest", {1}, longest.info.dims);
  call.last_keys = static_cast<const std::int32_t*>(last_keys.data);
  call.longest = *static_cast<const std::int32_t*>(longest.data);
  const Given keys = given(api, context, kInputPastKey);
  const Given values = given(api, context, kInputPastValue);
  const std::int64_t E = row_numbers(keys.info.type, sizes_.D);
  check_dims("past_key", {call.batch, sizes_.g, -1, E}, keys.info.dims);
  check_dims("past_value", keys.info.dims, values.info.dims);
  call.cache_type = cache_type_of(keys.info.type);
  call.past_room = keys.info.dims[2];
  call.present_room = std::max(call.past_room, call.longest);
  call.keys.past = static_cast<const std::uint8_t*>(keys.data);
  call.values.past = static_cast<const std::uint8_t*>(values.data);
  check_call(call);
  const std::vector<std::int64_t> dims{call.batch, sizes_.g, call.present_room, E};
  for (int i = 1; i < kOutputs; ++i) {
    OrtValue* present = nullptr;
    void* data = nullptr;
    check(api, api.KernelContext_GetOutput(context, static_cast<std::size_t>(i), dims.data(), dims.size(), &present));
    check(api, api.GetTensorMutableData(present, &data));
    (i == 1 ? call.keys : call.values).present = static_cast<std::uint8_t*>(data);
  }
}

void AttentionNode::read_tables(const OrtApi& api, OrtKernelContext* context, AttentionCall& call,
                                ONNXTensorElementDataType x_type) const {
  const Given cos = given(api, context, kInputCosTable);
  const Given sin = given(api, context, kInputSinTable);
  if ((cos.value == nullptr) != (sin.value == nullptr)) {
    throw std::invalid_argument("cos_table and sin_table: expected both or neither");
  }
  if (cos.value == nullptr) return;
  if (cos.info.dims.size() != 2 || cos.info.dims[1] > sizes_.D / 2) {
    refuse("cos_table", "shape [positions, up to " + std::to_string(sizes_.D / 2) + "]", to_string(cos.info.dims));
  }
  check_dims("sin_table", cos.info.dims, sin.info.dims);
  call.tables = {cos.data, sin.data, element_of("cos_table", x_type), cos.info.dims[0], cos.info.dims[1]};
}

void AttentionNode::compute(const OrtApi& api, OrtKernelContext* context) const {
  const Given x = given(api, context, kInputX);
  const std::int64_t width = qkv_ != nullptr ? sizes_.H : sizes_.width();
  check_dims("X", {-1, -1, width}, x.info.dims);
  std::array<std::vector<float>, 6> scratch;
  Attention attention = attention_;
  attention.q_norm = q_norm_.read(api, context, scratch[0]);
  attention.k_norm = k_norm_.read(api, context, scratch[1]);
  AttentionCall call{attention, x.info.dims[0], x.info.dims[1], nullptr, 0, {}, {}, {}, {}, 0, 0, nullptr, nullptr};
  read_tables(api, context, call, x.info.type);
  read_cache(api, context, call);
  const std::vector<std::int64_t> dims{call.batch, call.new_tokens, o_ != nullptr ? sizes_.H : sizes_.h * sizes_.D};
  OrtValue* y = nullptr;
  void* out = nullptr;
  check(api, api.KernelContext_GetOutput(context, 0, dims.data(), dims.size(), &y));
  check(api, api.GetTensorMutableData(y, &out));
  HostPool pool{api, context};
  const AttentionBlock block{attention,
                             qkv_.get(),
                             o_.get(),
                             attention.epsilon,
                             norm_.read(api, context, scratch[2]),
                             qkv_bias_.read(api, context, scratch[3]),
                             o_bias_.read(api, context, scratch[4]),
                             post_norm_.read(api, context, scratch[5])};
  run_attention(block, call, {x.data, element_of("X", x.info.type)}, out, pool.loop());
}

std::unique_ptr<NodeInstance> create(const OrtApi& api, const OrtKernelInfo* info) {
  const KernelAttributes reader(api, info);
  return std::make_unique<AttentionNode>(api, info, read_sizes(reader), reader);
}

void infer_outputs(const OrtApi& api, OrtShapeInferContext* context) {
  const InferenceAttributes reader(api, context);
  const Sizes sizes = read_sizes(reader);
  read_attention(reader, sizes);
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  TensorInfo x = inferred_info(api, context, kInputX, &info);
  const bool products = reader.read(kAttrQkvGroupSize).has_value();
  if (products) {
    read_product(reader, kQkv, sizes.H, sizes.width());
    read_product(reader, kO, sizes.h * sizes.D, sizes.H);
  }
  if (!x.dims.empty()) {  // else nothing is known of it
    check_dims("X", {-1, -1, products ? sizes.H : sizes.width()}, x.dims);
    x.dims[2] = products ? sizes.H : sizes.h * sizes.D;
    infer_output_like(api, context, info, x);
  }
  TensorInfo past = inferred_info(api, context, kInputPastKey, &info);
  if (past.dims.empty()) return;
  check_dims("past_key", {-1, sizes.g, -1, row_numbers(past.type, sizes.D)}, past.dims);
  past.dims[2] = kNewDimension;  // that of past, or more
  for (std::size_t i = 1; i < kOutputs; ++i) infer_output_like(api, context, info, past, i, "present_length");
}

}  // namespace

std::vector<const OrtCustomOp*> new_attention_ops(const OrtApi& api) {
  constexpr auto kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  std::vector<const OrtCustomOp*> ops;
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    for (const auto cache : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                             ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}) {
      if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 && cache == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) continue;
      std::vector<Port> inputs(kInputCount, Port{type, true});
      inputs[kInputX] = {type};
      inputs[kInputPastKey] = inputs[kInputPastValue] = {cache};
      inputs[kInputLastKeys] = inputs[kInputLongest] = {kInt32};
      for (const ProductPort& port : {kQkv, kO}) {
        inputs[static_cast<std::size_t>(port.planes)] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, true};
        inputs[static_cast<std::size_t>(port.scales)] = {kAny, true};
      }
      ops.push_back(
          new_op(api, {kOpName, "CPUExecutionProvider", inputs, {{type}, {cache}, {cache}}, create, infer_outputs}));
    }
  }
  return ops;
}

}  // namespace dualbinary
