"""Speed, memory and accuracy of whole models, beside llama.cpp, onnxruntime-genai and full precision."""
