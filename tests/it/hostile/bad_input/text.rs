//! Texts and tokenizers.

use super::*;

#[test]
fn texts_and_tokenizers() {
    all_rows(texts());
}

fn texts() -> Vec<Row> {
    let text = |name, bytes, says| Row {
        make: write("text.txt", bytes),
        ..called(name, &["locate", "{model}", "--text-file", "{model}/text.txt"], says)
    };
    vec![
        row("tokenizer not JSON", write("tokenizer.json", b"{"), &["tokenizer.json", "is not a tokenizer"]),
        row(
            "tokenizer that names what it does not have",
            Box::new(|dir| {
                let path = dir.join("tokenizer.json");
                let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": [
                    {"SpecialToken": {"id": "<nowhere>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}});
                std::fs::write(path, tokenizer.to_string()).unwrap();
            }),
            &["tokenizer.json", "malformed"],
        ),
        row("tokenizer not UTF-8", write("tokenizer.json", b"\xff"), &["tokenizer.json", "UTF-8"]),
        row(
            "tokenizer of another kind",
            write("tokenizer.json", b"{\"a\":\n1}"),
            &["tokenizer.json", "not a tokenizer"],
        ),
        row(
            "ids beyond the vocabulary",
            Box::new(|dir| {
                let path = dir.join("tokenizer.json");
                let text = std::fs::read_to_string(&path).unwrap().replace("\"r\": 83", "\"r\": 830");
                std::fs::write(path, text).unwrap();
            }),
            &["token 830", "vocabulary of 97", "not this model's"],
        ),
        called("empty text", &["locate", "{model}", "--text", ""], &["the text is empty", "--text"]),
        called("white space", &["perplexity", "{model}", "--text", " \n\t "], &["the text is empty", "--text"]),
        called("one token", &["locate", "{model}", "--text", "a"], &["1 token", "needs two"]),
        text("empty text file", b"", &["the text is empty", "--text-file"]),
        text("text not UTF-8", b"caf\xe9 au lait", &["text.txt", "UTF-8"]),
        called("no text file", &["locate", "{model}", "--text-file", "{in}/no.txt"], &["no.txt", "is not there"]),
        called("a folder as text", &["locate", "{model}", "--text-file", "{in}"], &["/in", "directory"]),
    ]
}
