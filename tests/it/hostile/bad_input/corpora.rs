//! Corpora that are none.

use super::*;

#[test]
fn corpora() {
    all_rows(rows());
}

const CALL: &[&str] = &["perplexity", "{model}", "--corpus", "{model}/corpus.jsonl"];

fn file(name: &'static str, bytes: &'static [u8], says: &'static [&'static str]) -> Row {
    Row { make: write("corpus.jsonl", bytes), ..called(name, CALL, says) }
}

fn rows() -> Vec<Row> {
    let sample = |name, args, says| Row { args, ..called(name, &[], says) };
    vec![
        called("no such corpus", CALL, &["corpus.jsonl", "is not there"]),
        file("empty", b"", &["corpus.jsonl", "holds no text", "{\"text\": \"…\"}"]),
        file("blank", b"\n \n{\"text\": \" \"}\n", &["corpus.jsonl", "holds no text"]),
        file("no JSON", b"{\"text\": \"a\"}\n\ntext\n", &["corpus.jsonl", "line 3", "{\"text\": \"…\"}"]),
        file("no text", b"{\"txt\": \"a\"}\n", &["corpus.jsonl", "line 1", "missing field `text`"]),
        file("not UTF-8", b"{\"text\": \"\xff\"}\n", &["corpus.jsonl", "UTF-8", "byte 10"]),
        file("too short", b"{\"text\": \"a\"}\n", &["corpus.jsonl", "no text of over 50 characters"]),
        sample(
            "no samples",
            &["perplexity", "{model}", "--corpus", "sample", "--max-samples", "0"],
            &["max-samples is 0", "at least 1"],
        ),
        sample(
            "no context",
            &["perplexity", "{model}", "--corpus", "sample", "--context", "1"],
            &["context is 1 token", "expected 2"],
        ),
        Row {
            make: config("max_position_embeddings", Value::Null),
            ..sample(
                "context unknown",
                &["perplexity", "{model}", "--corpus", "sample", "--protocol", "rolling"],
                &["config.json", "max_position_embeddings", "--context"],
            )
        },
        Row {
            make: Box::new(|dir| {
                (config("bos_token_id", Value::Null)(dir), config("eos_token_id", Value::Null)(dir)).0
            }),
            ..sample(
                "no first token",
                &["perplexity", "{model}", "--corpus", "sample", "--protocol", "rolling"],
                &["config.json", "bos_token_id"],
            )
        },
        Row {
            make: write("tokenizer_config.json", b"{\"bos_token\": {\"content\": \"<s>\"}}"),
            ..sample(
                "no token",
                &["perplexity", "{model}", "--corpus", "sample", "--protocol", "rolling"],
                &["\"<s>\"", "is no token"],
            )
        },
        usage("protocol", &["perplexity", "{model}", "--corpus", "sample", "--protocol", "p"], &["expected paper or"]),
        usage(
            "format",
            &["perplexity", "{model}", "--corpus", "sample", "--format-text", "p"],
            &["expected plain, jsonl"],
        ),
        usage(
            "text and corpus",
            &["perplexity", "{model}", "--corpus", "sample", "--text", "a"],
            &["cannot be used with"],
        ),
        usage("protocol of a text", &["perplexity", "{model}", "--protocol", "paper"], &["--corpus <FILE>"]),
    ]
}
