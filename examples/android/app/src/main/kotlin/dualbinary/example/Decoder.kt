package dualbinary.example

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.LongBuffer

private const val PAST = "past"
private const val KEYS_AND_VALUES = "past_key_values"

/**
 * An exported model and what it carries from step to step: keys and values that grow, states of fixed size.
 *
 * [library] is a path, or on Android the name "libdualbinary.so", which is looked for among the app's libraries; null runs
 * the operators by the functions inside the model.
 */
class Decoder(model: String, library: String?, threads: Int = 0) : AutoCloseable {
    private val env = OrtEnvironment.getEnvironment()
    private val options = OrtSession.SessionOptions() // closing it unloads the library, so it lives as long
    private val session: OrtSession
    private val pasts = mutableMapOf<String, OnnxTensor>()
    private var last: OrtSession.Result? = null // owns the tensors of `pasts` after a step
    private var length = 0

    init {
        options.setIntraOpNumThreads(threads)
        library?.let(options::registerCustomOpLibrary)
        session = env.createSession(model, options)
        for ((name, input) in session.inputInfo) {
            if (name.startsWith(PAST)) pasts[name] = empty(input.info as TensorInfo)
        }
    }

    /** No tokens, or a state of zeros, in the input's own type: sizes that the model leaves open are those of tokens. */
    private fun empty(info: TensorInfo): OnnxTensor {
        val shape = LongArray(info.shape.size) { axis -> if (axis == 0) 1 else maxOf(info.shape[axis], 0) }
        val bytes = shape.fold(info.type.size.toLong(), Long::times).toInt()
        val zeros = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
        return OnnxTensor.createTensor(env, zeros, shape, info.type)
    }

    /** Appends tokens and returns the likeliest next one. */
    fun step(tokens: LongArray): Long {
        val positions = LongArray(tokens.size) { length.toLong() + it }
        length += tokens.size
        val rows = mapOf("input_ids" to tokens, "attention_mask" to LongArray(length) { 1 }, "position_ids" to positions)
            .filterKeys(session.inputNames::contains)
            .mapValues { (_, row) -> OnnxTensor.createTensor(env, LongBuffer.wrap(row), longArrayOf(1, row.size.toLong())) }
        val result = session.run(pasts + rows)
        rows.values.forEach(OnnxTensor::close)
        for (past in pasts.keys.toList()) {
            val prefix = if (past.startsWith(KEYS_AND_VALUES)) KEYS_AND_VALUES else PAST
            pasts[past] = result["present" + past.removePrefix(prefix)].orElseThrow() as OnnxTensor
        }
        last?.close()
        last = result
        return likeliest(result["logits"].orElseThrow() as OnnxTensor)
    }

    /** Index of the largest value in the last row of logits [1, s, vocabulary]. */
    private fun likeliest(logits: OnnxTensor): Long {
        val vocabulary = logits.info.shape.last().toInt()
        val values = logits.floatBuffer // float16 is converted
        val first = values.remaining() - vocabulary
        return (0 until vocabulary).maxBy { values[first + it] }.toLong()
    }

    override fun close() {
        last?.close()
        session.close()
        options.close()
    }
}
