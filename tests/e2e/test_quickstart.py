"""The quickstart is what a reader copies, so it must keep working and agree with the commands."""

from examples import quickstart
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.sampling import Sampler
from tests.support import tiny_sessions as tiny


def test_quickstart_prints_the_prompt_and_what_generate_continues(tmp_path, capsys):
    model = tiny.make_model(tiny.make_weights(tmp_path / "weights"), tmp_path / "model")
    tokenizer = tiny.make_tokenizer()
    prompt = tokenizer.encode("Hello").ids
    # The quickstart does not stop at the end-of-text token; this model does not choose it here.
    tokens = list(generate(Decoder.load(model), prompt, quickstart.NEW_TOKENS, Sampler(), Generation([])))
    assert len(tokens) == quickstart.NEW_TOKENS
    quickstart.main(str(model), "Hello")
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode([*prompt, *tokens])
