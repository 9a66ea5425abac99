"""A checkpoint in transformers as it is stored: planes and scales stay what is in memory.

`import calib` registers the method "dualbinary" with transformers (registration.py), so that

    import calib
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)

puts modules of `modules.py` in the place of those whose weights are in planes (model.py). They make a weight anew for
each product, some rows at a time, and keep nothing: memory is that of the checkpoint, time is spent on unpacking. To
run a model fast is what exports are for (decision 0032). Nothing here trains.
"""
