package dualbinary.example

import android.app.Activity
import android.os.Bundle
import android.widget.TextView
import java.io.File
import kotlin.concurrent.thread

/**
 * Continues a few tokens of SmolLM2 ("The capital of France is") by 16, and shows their ids.
 *
 * The model's folder is expected where `adb push out/model.onnx out/model.onnx.data` may put it:
 * /sdcard/Android/data/dualbinary.example/files. The data file is mapped, so it has to be a file, not an asset.
 */
class MainActivity : Activity() {
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        val view = TextView(this)
        setContentView(view)
        val model = File(getExternalFilesDir(null), "model.onnx")
        if (!model.exists()) {
            view.text = "no ${model.path}: push model.onnx and model.onnx.data there"
            return
        }
        thread {
            val text = runCatching {
                Decoder(model.path, "libdualbinary.so", threads = 4).use { decoder ->
                    var tokens = longArrayOf(504, 3575, 282, 4649, 314)
                    List(16) { decoder.step(tokens).also { tokens = longArrayOf(it) } }.joinToString(" ")
                }
            }.getOrElse { it.message ?: it.toString() }
            runOnUiThread { view.text = text }
        }
    }
}
