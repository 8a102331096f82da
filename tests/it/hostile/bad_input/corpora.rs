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

const WITH_LENGTHS: &[&str] = &["perplexity", "{model}", "--corpus", "{model}/corpus.parquet", "--column", "length"];
const WITH_LISTS: &[&str] =
    &["perplexity", "{model}", "--corpus", "{model}/corpus.parquet", "--column", "text.list.element"];
const PARQUET: &[&str] = &["perplexity", "{model}", "--corpus", "{model}/corpus.parquet"];

/// A file of fixtures/parquet, changed.
fn parquet(name: &'static str, file: &'static str, change: fn(&mut Vec<u8>), says: &'static [&'static str]) -> Row {
    let make = move |dir: &Path| {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/parquet/{file}.parquet"));
        let mut bytes = std::fs::read(from).unwrap();
        change(&mut bytes);
        std::fs::write(dir.join("corpus.parquet"), bytes).unwrap();
    };
    Row { make: Box::new(make), ..called(name, PARQUET, says) }
}

fn rows() -> Vec<Row> {
    let sample = |name, args, says| Row { args, ..called(name, &[], says) };
    vec![
        called("no such corpus", CALL, &["corpus.jsonl", "is not there"]),
        file("empty", b"", &["corpus.jsonl", "holds no text", "{\"text\": \"…\"}"]),
        file("blank", b"\n \n{\"text\": \" \"}\n", &["corpus.jsonl", "holds no text"]),
        file("no JSON", b"{\"text\": \"a\"}\n\ntext\n", &["corpus.jsonl", "line 3", "{\"text\": \"…\"}"]),
        file("no text", b"{\"txt\": \"a\"}\n", &["corpus.jsonl", "line 1", "it has no \"text\""]),
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
        parquet("parquet empty", "snappy", Vec::clear, &["corpus.parquet", "is not Parquet that can be read"]),
        parquet("parquet cut", "snappy", |b| b.truncate(2000), &["corpus.parquet", "is not Parquet that can be read"]),
        parquet("parquet without its end", "snappy", |b| b.truncate(b.len() - 1), &["is not Parquet that can be read"]),
        parquet("a page cut out", "snappy", |b| drop(b.drain(10..200)), &["corpus.parquet", "give another file"]),
        parquet("brotli", "brotli", |_| {}, &["corpus.parquet", "is compressed by brotli"]),
        parquet("lists", "lists", |_| {}, &["corpus.parquet", "has no column \"text\", but \"text.list.element\""]),
        Row { args: WITH_LENGTHS, ..parquet("numbers", "snappy", |_| {}, &["has no texts in the column \"length\""]) },
        Row { args: WITH_LISTS, ..parquet("list", "lists", |_| {}, &["has no texts in the column"]) },
        Row {
            make: write("corpus.parquet", b"text"),
            ..called("text as parquet", PARQUET, &["corpus.parquet", "is not Parquet that can be read"])
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
