// Runs an exported model from Java with ONNX Runtime (Maven: com.microsoft.onnxruntime:onnxruntime) and the operators'
// library: feeds token ids and prints the likeliest continuation, one line of ids.
//
//   java -cp onnxruntime.jar Generate.java OUT.onnx LIBRARY|none COUNT ID...
//
// LIBRARY "none" runs the operators by the functions inside the model.
import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.StringJoiner;

/** A decoder and what it carries from step to step: keys and values that grow, states of fixed size. */
public final class Generate implements AutoCloseable {
  private static final String PAST = "past";
  private static final String KEYS_AND_VALUES = "past_key_values";
  private static final String PRESENT = "present";

  private final OrtEnvironment env = OrtEnvironment.getEnvironment();
  private final OrtSession.SessionOptions options = new OrtSession.SessionOptions(); // close() unloads the library
  private final OrtSession session;
  private final Map<String, OnnxTensor> pasts = new HashMap<>();
  private OrtSession.Result last; // owns the tensors of `pasts` after a step
  private int length;

  /** Loads a model; {@code library} is the operators' library or "none". */
  public Generate(String model, String library) throws OrtException {
    if (!library.equals("none")) {
      options.registerCustomOpLibrary(library);
    }
    session = env.createSession(model, options);
    for (Map.Entry<String, NodeInfo> input : session.getInputInfo().entrySet()) {
      if (input.getKey().startsWith(PAST)) {
        pasts.put(input.getKey(), empty((TensorInfo) input.getValue().getInfo()));
      }
    }
  }

  /** No tokens, or a state of zeros, in the input's own type: sizes that the model leaves open are those of tokens. */
  private OnnxTensor empty(TensorInfo info) throws OrtException {
    long[] shape = info.getShape().clone();
    shape[0] = 1;
    long count = 1;
    for (int axis = 0; axis < shape.length; axis++) {
      shape[axis] = Math.max(shape[axis], 0);
      count *= shape[axis];
    }
    OnnxJavaType type = info.type;
    ByteBuffer zeros = ByteBuffer.allocateDirect((int) count * type.size).order(ByteOrder.nativeOrder());
    return OnnxTensor.createTensor(env, zeros, shape, type);
  }

  /** Appends tokens and returns the likeliest next one. */
  public long step(long... tokens) throws OrtException {
    long[] positions = new long[tokens.length];
    Arrays.setAll(positions, i -> length + i);
    length += tokens.length;
    long[] mask = new long[length];
    Arrays.fill(mask, 1);
    try (OnnxTensor ids = row(tokens);
        OnnxTensor attention = row(mask);
        OnnxTensor places = row(positions)) {
      Map<String, OnnxTensor> inputs = new HashMap<>(pasts);
      inputs.put("input_ids", ids);
      inputs.put("attention_mask", attention);
      if (session.getInputNames().contains("position_ids")) {
        inputs.put("position_ids", places);
      }
      OrtSession.Result result = session.run(inputs);
      for (String past : pasts.keySet()) {
        String prefix = past.startsWith(KEYS_AND_VALUES) ? KEYS_AND_VALUES : PAST;
        String present = PRESENT + past.substring(prefix.length());
        pasts.put(past, (OnnxTensor) result.get(present).orElseThrow());
      }
      if (last != null) {
        last.close();
      }
      last = result;
      return likeliest((OnnxTensor) result.get("logits").orElseThrow());
    }
  }

  private OnnxTensor row(long[] values) throws OrtException {
    return OnnxTensor.createTensor(env, LongBuffer.wrap(values), new long[] {1, values.length});
  }

  /** Index of the largest value in the last row of logits [1, s, vocabulary]. */
  private static long likeliest(OnnxTensor logits) {
    long[] shape = logits.getInfo().getShape();
    int vocabulary = (int) shape[shape.length - 1];
    FloatBuffer values = logits.getFloatBuffer(); // float16 is converted
    int first = values.remaining() - vocabulary;
    int best = 0;
    for (int i = 1; i < vocabulary; i++) {
      if (values.get(first + i) > values.get(first + best)) {
        best = i;
      }
    }
    return best;
  }

  @Override
  public void close() throws OrtException {
    if (last != null) {
      last.close();
    }
    session.close();
    options.close();
  }

  public static void main(String[] arguments) {
    if (arguments.length < 4) {
      System.err.println("usage: Generate OUT.onnx LIBRARY|none COUNT ID...");
      System.exit(2);
    }
    try (Generate decoder = new Generate(arguments[0], arguments[1])) {
      long[] tokens = Arrays.stream(arguments).skip(3).mapToLong(Long::parseLong).toArray();
      StringJoiner line = new StringJoiner(" ");
      for (int count = Integer.parseInt(arguments[2]); count > 0; count--) {
        tokens = new long[] {decoder.step(tokens)};
        line.add(Long.toString(tokens[0]));
      }
      System.out.println(line);
    } catch (OrtException | NumberFormatException error) {
      System.err.println("error: " + error.getMessage());
      System.exit(1);
    }
  }
}
