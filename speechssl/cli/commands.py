"""All commands: what `--help` says of each, where its function is, and which extras of setup.py it needs."""

from speechssl.cli.lazy import Command, Group

__all__ = ["COMMANDS"]

_MANIFEST = {
    "build": Command("List the audio below a folder.", "manifest_commands:build_command"),
    "split": Command("Divide by speaker, text or id; stable when data are added.", "manifest_commands:split_command"),
    "merge": Command("Join manifests into one.", "manifest_commands:merge_command"),
    "filter": Command("Choose utterances, and say how many were left out and why.", "manifest_commands:filter_command"),
    "stats": Command(
        "Count hours by speaker, language and split, and how durations are spread.",
        "manifest_commands:stats_command",
        extras=("plots",),
    ),
    "sample": Command("Draw a part, with languages shared as in XLS-R.", "manifest_commands:sample_command"),
    "check": Command(
        "Decode everything and say what is wrong with it; status 1 if there are errors.",
        "manifest_commands:check_command",
        extras=("check",),
    ),
    "convert": Command(
        "Write a manifest in its other form: Parquet for millions of rows if the name ends in .parquet, text if not.",
        "manifest_commands:convert_command",
    ),
    "segment": Command(
        "Cut long recordings at pauses into utterances, as parts of their files; writes no audio.",
        "manifest_commands:segment_command",
    ),
    "import": Command(
        "Read another toolkit's list, and compare it with the audio; or list a corpus as published.",
        "manifest_commands:import_command",
    ),
    "export": Command("Write a manifest in another toolkit's format.", "manifest_commands:export_command"),
}

_LM = {
    "build": Command(
        "Build an n-gram model, with interpolated modified Kneser-Ney smoothing.", "lm_commands:build_command"
    ),
    "perplexity": Command(
        "Say how well a model predicts texts it was not built from.", "lm_commands:perplexity_command"
    ),
    "lexicon": Command(
        "List the words of texts, spelled in a model's letters, for decoding with a lexicon.",
        "lm_commands:lexicon_command",
    ),
    "tune": Command(
        "Choose the weights of a language model on a development set.",
        "lm_commands:tune_command",
        extras=("score", "plots"),
    ),
}

COMMANDS = Group(
    "Speech self-supervised representation learning: manifests, pretraining, CTC fine-tuning, WER.",
    {
        "cluster": Command("Fit k-means and label every frame of speech.", "stages_commands:cluster_command"),
        "pretrain": Command(
            "Pretrain an encoder, with either method.", "stages_commands:pretrain_command", extras=("train",)
        ),
        "finetune": Command(
            "Fine-tune a pretrained encoder with CTC.", "stages_commands:finetune_command", extras=("train",)
        ),
        "sweep": Command(
            "Measure every layer and number of units against phones.",
            "stages_commands:sweep_command",
            extras=("plots",),
        ),
        "hubert": Command(
            "Run all iterations of HuBERT: units, pretraining, sweep, units, ...",
            "stages_commands:hubert_command",
            extras=("train", "plots"),
        ),
        "corpus": Command(
            "Prepare a real corpus and its splits.", "corpus_commands:corpus_command", extras=("corpora",)
        ),
        "preflight": Command(
            "Look at texts, tokens and lengths as fine-tuning would; exit status 1 where it would refuse them.",
            "stages_commands:preflight_command",
            extras=("train",),
        ),
        "extract": Command(
            "Write the features of a model's layers, MFCC or log-mel: npy, HDF5, Zarr, safetensors, Parquet, Lhotse.",
            "features_commands:extract_command",
        ),
        "transcribe": Command(
            "Transcribe speech: a manifest, files, or 16-bit 16 kHz mono samples or wav from stdin, word by word.",
            "transcribe_commands:transcribe_command",
        ),
        "align": Command(
            "Find when each word and letter of known texts was said.", "transcribe_commands:align_command"
        ),
        "average": Command("Average checkpoints of a run into one model.", "models_commands:average_command"),
        "score": Command(
            "Score transcripts by utterance id: CER and WER with intervals, by group, and against another system.",
            "score_commands:score_command",
            extras=("score",),
        ),
        "convert": Command(
            "Convert a model to another toolkit's format, and check the result by running it.",
            "models_commands:convert_command",
        ),
        "info": Command(
            "Say what a model is: method, size, layers, units, vocabulary, origin, fingerprint.",
            "models_commands:info_command",
        ),
        "card": Command(
            "Write a model card from what a run knows: method, data, hours seen, units, results, commit.",
            "models_commands:card_command",
        ),
        "push": Command(
            "Print the command that uploads a model to the Hugging Face hub; nothing is sent.",
            "models_commands:push_command",
        ),
        "plot": Command("Draw an utterance with its hidden units.", "units_commands:plot_command", extras=("plots",)),
        "units": Command(
            "Print the hidden units of audio files: a line each, of the file's name, a tab and the units.",
            "units_commands:units_command",
        ),
        "labels": Command("Convert frame labels from fairseq and to it.", "units_commands:labels_command"),
        "replay": Command(
            "Repeat a step that training skipped, and say which utterance and which module broke it.",
            "runs_commands:replay_command",
            extras=("train",),
        ),
        "plan": Command(
            "Plan a pretraining run: size, batch, learning rate, and what published runs reached.",
            "runs_commands:plan_command",
        ),
        "report": Command("Print what a recipe measured, as tables.", "runs_commands:report_command"),
        "runs": Command(
            "Compare training runs: a table, curves over steps, hours of audio seen and wall time.",
            "runs_commands:runs_command",
            extras=("train", "plots"),
        ),
        "manifest": Group("Make manifests, lists of audio with what is known of it, and work on them.", _MANIFEST),
        "lm": Group(
            "Language models for decoding: build n-grams from text, measure them, make lexicons, tune their weights.",
            _LM,
        ),
    },
)
