"""Models on disk, of this and of other toolkits, and the differences between the toolkits.

Other toolkits are imported only when a function needs them. The same weights give the same outputs, losses and
gradients (tests/parity, recipes/README.md), except where the toolkits disagree among themselves:

| what | fairseq | transformers | torchaudio | fairseq2 | here, and why |
|---|---|---|---|---|---|
| group norm takes padding in | yes | yes | yes | yes | no: an utterance's features do not depend on its batch; `encoder.padding_in_norm=true` does as they do |
| feature penalty, padded batch | all frames | has none | all frames | all frames | valid frames, for the same reason |
| feature penalty times | predicted frames | - | masked frames (its recipe) | masked frames | predicted frames |
| extractor's gradient scale | always, 0 freezes | freezing only | HuBERT, always, below 1 | in training, above 0 | always, 0 freezes |
| perplexity of diversity, evaluation | softmax | chosen entries, no gradient | - | softmax | softmax; chosen entries reported apart |
| logarithm of the perplexity | p + 1e-7 | p + 1e-7; p from 5.2 on: gradients are NaN where p is 0 | - | p + 1e-7 | p + 1e-7 |
| quantizer sees | masked frames | all frames | - | masked frames | masked frames |
| quantizer's temperature | by updates | 2 until the caller sets it | - | counts forwards in training | function of the step |
| negative equal to the target | -inf, by vector | -inf, by vector | - | -inf, by vector | -inf, by code: needs no copies |
| true unit in HuBERT's logits | twice, second struck out | no pretraining | twice, second struck out | no HuBERT | once: the same loss |
| masked frames a row | trimmed to equal counts | the caller's | trimmed | trimmed | all kept: nothing thrown away |
| list of layer outputs | - | begins with the input | layers | a hook a layer | layers |
| final norm, pre-norm form | on the output | on the last hidden state; not in the list from 5.16 on | forward only | on the output, not in hooks | on the last layer |
| dropped layer | missing from the list | repeats its input; missing from 5.16 on | repeats its input | refused with hooks | repeats its input: entry n is layer n |
| feature extractor of a processor | - | preprocessor_config.json; in processor_config.json from 5.0 on | - | - | both read and written |
| projection, channels equal dim | none | there | there | none | there; the identity when read from them |
| query, key, value | three | three | three | three | one matrix |
| weight norm of positions | g and v | parametrization | parametrization | g and v | parametrization |
| epsilon of normalised waveforms | 1e-5 | 1e-7 | - | - | 1e-5 |
| CTC's blank | 0 | the padding token | 0 | 0 | 0; the head's rows are reordered when read |
| `zero_infinity` | set by its recipes | off by default | on (its recipe) | on | on, impossible utterances counted |

fairseq cannot be installed on Python 3.11: its column comes from its sources. The others were run, transformers in
versions 4.57, 5.17 and 5.24; where these differ, the parity test checks the version.
"""
