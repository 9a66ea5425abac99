package dualbinary.example

/** The decoder without Android: OUT.onnx LIBRARY|none COUNT ID..., one line of ids. */
fun main(arguments: Array<String>) {
    val (model, library, count) = arguments
    Decoder(model, library.takeUnless { it == "none" }).use { decoder ->
        var tokens = arguments.drop(3).map(String::toLong).toLongArray()
        val answer = List(count.toInt()) { decoder.step(tokens).also { tokens = longArrayOf(it) } }
        println(answer.joinToString(" "))
    }
}
