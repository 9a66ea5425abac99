#!/usr/bin/env bash
# transformers.js does not read chat_template.jinja, where transformers 5 saves a chat template.
#
# Software: @huggingface/transformers (npm) 4.3.2, transformers 5.23.0
# Input: a tokenizer with a chat template, saved by save_pretrained() of transformers, which writes the template into
#   chat_template.jinja and not into tokenizer_config.json; apply_chat_template() of transformers.js on that folder.
# Expected: the text that transformers makes.
# Observed: "Cannot use apply_chat_template() because tokenizer.chat_template is not set"; with the template in
#   tokenizer_config.json the text is that of transformers.
#
# Output seen on 2026-11-29:
#   transformers: [user] Hi
#   transformers.js, folder as saved: Cannot use apply_chat_template() because tokenizer.chat_template is not set
#   transformers.js, template in tokenizer_config.json: [user] Hi
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
# Needs Node.js 20 with npm beside Python.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/save.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

work = Path(sys.argv[1])
tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "Hi": 1}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
saved.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
print("transformers:", saved.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False))
saved.save_pretrained(work / "saved")
saved.save_pretrained(work / "joined")
config = json.loads((work / "joined" / "tokenizer_config.json").read_text())
assert "chat_template" not in config and (work / "saved" / "chat_template.jinja").is_file()
config["chat_template"] = saved.chat_template
(work / "joined" / "tokenizer_config.json").write_text(json.dumps(config))
PYTHON
cat > "$work/run.mjs" <<'JAVASCRIPT'
import { AutoTokenizer, env, LogLevel } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
env.logLevel = LogLevel.ERROR;
const texts = [];
for (const [name, words] of [["saved", "folder as saved"], ["joined", "template in tokenizer_config.json"]]) {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  let text;
  try {
    text = tokenizer.apply_chat_template([{ role: "user", content: "Hi" }], { tokenize: false });
  } catch (error) {
    text = error.message.match(/^Cannot use .* is not set/)[0];
  }
  console.log(`transformers.js, ${words}: ${text}`);
  texts.push(text);
}
process.exit(texts[0].startsWith("Cannot use") && texts[1] === "[user] Hi" ? 0 : 1);
JAVASCRIPT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
"$work/venv/bin/python" "$work/save.py" "$work"
cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/transformers@4.3.2
node run.mjs "$work"
