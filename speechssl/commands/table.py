"""All commands: what `--help` says of each, where its function is, and which extras of setup.py it needs."""

from speechssl.commands.lazy import Command, Group

__all__ = ["COMMANDS"]

_MANIFEST = {
    "build": Command("List the audio below a folder.", "manifest:build_command"),
    "split": Command("Divide by speaker, text or id; stable when data are added.", "manifest:split_command"),
    "merge": Command("Join manifests into one.", "manifest:merge_command"),
    "filter": Command("Choose utterances, and say how many were left out and why.", "manifest:filter_command"),
    "stats": Command(
        "Count hours by speaker, language and split, and how durations are spread.",
        "manifest:stats_command",
        extras=("plots",),
    ),
    "sample": Command("Draw a part, with languages shared as in XLS-R.", "manifest:sample_command"),
    "check": Command(
        "Decode everything and say what is wrong with it; status 1 if there are errors.",
        "manifest:check_command",
        extras=("check",),
    ),
    "convert": Command(
        "Write a manifest in its other form: Parquet for millions of rows if the name ends in .parquet, text if not.",
        "manifest:convert_command",
    ),
    "segment": Command(
        "Cut long recordings at pauses into utterances, as parts of their files; writes no audio.",
        "manifest:segment_command",
    ),
    "import": Command(
        "Read another toolkit's list, and compare it with the audio; or list a corpus as published.",
        "manifest:import_command",
    ),
    "export": Command("Write a manifest in another toolkit's format.", "manifest:export_command"),
}

_LM = {
    "build": Command("Build an n-gram model, with interpolated modified Kneser-Ney smoothing.", "lm:build_command"),
    "perplexity": Command("Say how well a model predicts texts it was not built from.", "lm:perplexity_command"),
    "lexicon": Command(
        "List the words of texts, spelled in a model's letters, for decoding with a lexicon.", "lm:lexicon_command"
    ),
    "tune": Command(
        "Choose the weights of a language model on a development set.", "lm:tune_command", extras=("score", "plots")
    ),
}

COMMANDS = Group(
    "Speech self-supervised representation learning: manifests, pretraining, CTC fine-tuning, WER.",
    {
        "cluster": Command("Fit k-means and label every frame of speech.", "stages:cluster_command"),
        "pretrain": Command("Pretrain an encoder, with either method.", "stages:pretrain_command", extras=("train",)),
        "finetune": Command("Fine-tune a pretrained encoder with CTC.", "stages:finetune_command", extras=("train",)),
        "sweep": Command(
            "Measure every layer and number of units against phones.", "stages:sweep_command", extras=("plots",)
        ),
        "hubert": Command(
            "Run all iterations of HuBERT: units, pretraining, sweep, units, ...",
            "stages:hubert_command",
            extras=("train", "plots"),
        ),
        "corpus": Command("Prepare a real corpus and its splits.", "corpus:corpus_command", extras=("corpora",)),
        "preflight": Command(
            "Look at texts, tokens and lengths as fine-tuning would; exit status 1 where it would refuse them.",
            "stages:preflight_command",
            extras=("train",),
        ),
        "extract": Command(
            "Write the features of a model's layers, MFCC or log-mel: npy, HDF5, Zarr, safetensors, Parquet, Lhotse.",
            "features:extract_command",
        ),
        "transcribe": Command(
            "Transcribe speech: a manifest, files, or 16-bit 16 kHz mono samples or wav from stdin, word by word.",
            "transcribe:transcribe_command",
        ),
        "align": Command("Find when each word and letter of known texts was said.", "transcribe:align_command"),
        "average": Command("Average checkpoints of a run into one model.", "models:average_command"),
        "score": Command(
            "Score transcripts by utterance id: CER and WER with intervals, by group, and against another system.",
            "score:score_command",
            extras=("score",),
        ),
        "convert": Command(
            "Convert a model to another toolkit's format, and check the result by running it.",
            "models:convert_command",
        ),
        "info": Command(
            "Say what a model is: method, size, layers, units, vocabulary, origin, fingerprint.",
            "models:info_command",
        ),
        "card": Command(
            "Write a model card from what a run knows: method, data, hours seen, units, results, commit.",
            "models:card_command",
        ),
        "push": Command(
            "Print the command that uploads a model to the Hugging Face hub; nothing is sent.", "models:push_command"
        ),
        "plot": Command("Draw an utterance with its hidden units.", "units:plot_command", extras=("plots",)),
        "units": Command(
            "Print the hidden units of audio files: a line each, of the file's name, a tab and the units.",
            "units:units_command",
        ),
        "labels": Command("Convert frame labels from fairseq and to it.", "units:labels_command"),
        "replay": Command(
            "Repeat a step that training skipped, and say which utterance and which module broke it.",
            "runs:replay_command",
            extras=("train",),
        ),
        "plan": Command(
            "Plan a pretraining run: size, batch, learning rate, and what published runs reached.",
            "plan:plan_command",
        ),
        "report": Command("Print what a recipe measured, as tables.", "runs:report_command"),
        "runs": Command(
            "Compare training runs: a table, curves over steps, hours of audio seen and wall time.",
            "runs:runs_command",
            extras=("train", "plots"),
        ),
        "manifest": Group("Make manifests, lists of audio with what is known of it, and work on them.", _MANIFEST),
        "lm": Group(
            "Language models for decoding: build n-grams from text, measure them, make lexicons, tune their weights.",
            _LM,
        ),
    },
)
