//! Keys, certificates and signatures.

use super::*;

#[test]
fn keys_certificates_and_signatures() {
    all_rows(signatures());
}

/// A path below fixtures/oms.
macro_rules! oms {
    ($path:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/", $path)
    };
}

fn signatures() -> Vec<Row> {
    const KEY: &str = oms!("keys/p256.pem");
    const PUBLIC: &str = oms!("keys/p256.pub.pem");
    const ROOT: &str = oms!("certificates/root.pem");
    let verified = |name, signature, says| {
        called(name, leak(&["verify-signature", "{model}", "--public-key", PUBLIC, "--signature", signature]), says)
    };
    let unsigned = |name, make, says| Row { make, ..called(name, &["sign", "{model}", "--private-key", KEY], says) };
    let with_key = |name, key, says| called(name, leak(&["sign", "{model}", "--private-key", key]), says);
    let sparse: Make = Box::new(|dir| std::fs::File::create(dir.join("big")).unwrap().set_len((64 << 20) + 1).unwrap());
    vec![
        with_key("no key", "{in}/no.pem", &["no.pem", "is not there"]),
        with_key("a folder as key", "{in}", &["/in", "expected a file"]),
        with_key("an encrypted key", oms!("keys/encrypted.pem"), &["encrypted.pem", "decrypt it first: openssl pkey"]),
        with_key(
            "an RSA key",
            oms!("keys/rsa.pem"),
            &["rsa.pem", "another kind of private key; expected an ECDSA key"],
        ),
        with_key("a public key", PUBLIC, &["p256.pub.pem", "holds a public key, expected a private one"]),
        with_key("no PEM", "{model}/config.json", &["config.json", "holds no private key in PEM form; expected"]),
        called("nothing to sign", &["sign", "{out}", "--private-key", KEY], &["/out", "holds no files to sign"]),
        called(
            "no such model",
            &["sign", "org/name", "--private-key", KEY],
            &["org/name", "no such file or folder; expected"],
        ),
        called(
            "no such shards",
            &["sign", "{model}", "--private-key", KEY, "--shard-size", "0"],
            &["shards is 0, expected"],
        ),
        Row {
            make: Box::new(|dir| std::fs::File::create(dir.join("big")).unwrap().set_len(2 << 30).unwrap()),
            ..called(
                "too many shards",
                &["sign", "{model}", "--private-key", KEY, "--shard-size", "1"],
                &["in/model", "more than 1048576 files or shards"],
            )
        },
        called(
            "a signature onto a file of the model",
            &["sign", "{model}", "--private-key", KEY, "-o", "{model}/config.json"],
            &["config.json", "no result replaces such"],
        ),
        called(
            "a signature nowhere",
            &["sign", "{model}", "--private-key", KEY, "-o", "{out}/no/x"],
            &["does not exist"],
        ),
        called(
            "a certificate of another key",
            &["sign", "{model}", "--private-key", KEY, "--cert", oms!("certificates/p384.pem")],
            &["p384.pem", "CN=test p384 is not one for the key"],
        ),
        called(
            "an expired certificate",
            &["sign", "{model}", "--private-key", KEY, "--cert", oms!("certificates/p256-expired.pem")],
            &["CN=test p256-expired expired at 2021-01-01T00:00:00Z", "nothing was signed"],
        ),
        unsigned("a name that cannot be signed", write("a\\b", b""), &["a\\b", "holds a backslash", "rename it"]),
        #[cfg(unix)]
        unsigned(
            "a link in the model",
            Box::new(|dir| std::os::unix::fs::symlink("config.json", dir.join("link")).unwrap()),
            &["model/link", "is a symbolic link; --allow-symlinks"],
        ),
        called(
            "no signature",
            &["verify-signature", "{model}", "--public-key", PUBLIC],
            &["model.sig", "is not there"],
        ),
        verified("a signature that is none", "{model}/config.json", &["config.json", "is not a model signature"]),
        Row {
            make: sparse,
            ..verified("a huge signature", "{model}/big", &["/big", "has 67108865 bytes, expected at"])
        },
        verified("another digest", oms!("signatures/blake2.sig"), &["blake2.sig", "\"blake2b\", and only sha256"]),
        verified("a certificate's", oms!("signatures/certificate-p256.sig"), &["certificate; give --cert-roots"]),
        Row {
            make: write("keyless.sig", KEYLESS),
            ..verified(
                "a keyless signature",
                "{model}/keyless.sig",
                &["keyless.sig", "keyless (Sigstore)", "use `python"],
            )
        },
        called(
            "a key's",
            &["verify-signature", "{model}", "--cert-roots", ROOT, "--signature", oms!("signatures/key-p256.sig")],
            &["key-p256.sig", "not with a certificate; give --public-key"],
        ),
        called(
            "no root",
            &["verify-signature", "{model}", "--cert-roots", oms!("certificates/intermediate.pem")],
            &["none of the certificates of --cert-roots is self-signed", "CN=test root"],
        ),
        called(
            "a private key to verify with",
            &["verify-signature", "{model}", "--public-key", KEY],
            &["keep this one to"],
        ),
        usage("nobody to trust", &["verify-signature", "{model}"], &["--public-key", "--cert-roots"]),
        usage(
            "two to trust",
            &["verify-signature", "{model}", "--public-key", "a", "--cert-roots", "b"],
            &["cannot be used"],
        ),
        usage("a chain alone", &["sign", "{model}", "--private-key", KEY, "--chain", "a"], &["--cert"]),
    ]
}

/// The beginning of what `model_signing sign sigstore` writes.
const KEYLESS: &[u8] = br#"{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":
    {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{"logIndex": "1"}]}, "dsseEnvelope": {"payload": "",
    "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": ""}]}}"#;
