"""Speed, memory and accuracy of whole models, beside other engines."""
