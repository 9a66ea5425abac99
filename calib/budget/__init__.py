"""The bit budget of a run: which format every layer gets for so many bits.

forms.py       the formats that a layer may have
curvature.py   how much the loss cares for each output of each layer: gradients of the whole model
sensitivity.py what each format of each layer costs in nats
allocate.py    the choice: a multiple-choice knapsack
plan.py        the units of a model, its budget, and the formats as overrides
"""
