//! Keys and tokens. The API server makes its own certificate, in the same folder.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pem::Pem;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

/// The key that tokens of service accounts are signed with.
pub(super) const KEY: &str = "service-accounts.key";
/// What they are checked with; the API server finds no such key in the other file.
pub(super) const PUBLIC_KEY: &str = "service-accounts.pub";
/// Who shows which token (`--token-auth-file`).
pub(super) const TOKENS: &str = "tokens.csv";

/// What stands before the point of a P-256 key in a SubjectPublicKeyInfo (RFC 5480, section 2):
/// `id-ecPublicKey`, `secp256r1`, a bit string of 65 bytes.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What proves who somebody is.
#[derive(Debug)]
pub(super) struct Credentials {
    /// Where the files are.
    pub(super) folder: PathBuf,
    /// Of somebody in the group `system:masters`, who may do everything.
    pub(super) token: String,
}

impl Credentials {
    /// Makes new ones in a folder below `folder`, readable by nobody else.
    pub(super) fn make(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("credentials");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making {}", folder.display()))?;
        let random = SystemRandom::new();
        write_keys(&folder, &random)?;
        let mut bytes = [0; 16];
        random.fill(&mut bytes).ok().context("making a token")?;
        let token = format!("{:032x}", u128::from_be_bytes(bytes));
        let line = format!("{token},admin,admin,system:masters\n");
        fs::write(folder.join(TOKENS), line)?;
        Ok(Self { folder, token })
    }

    /// The API server's certificate and the one it is signed by: `--cert-dir`'s `apiserver.crt`.
    pub(super) fn authorities(&self) -> PathBuf {
        self.folder.join("apiserver.crt")
    }
}

/// Makes the pair of keys for tokens of service accounts.
fn write_keys(folder: &Path, random: &SystemRandom) -> anyhow::Result<()> {
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, random).ok();
    let key = key.context("making a key")?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), random).ok();
    let pair = pair.context("reading a key just made")?;
    let public = [&P256_HEAD[..], pair.public_key().as_ref()].concat();
    let files = [
        (KEY, Pem::new("PRIVATE KEY", key.as_ref())),
        (PUBLIC_KEY, Pem::new("PUBLIC KEY", public)),
    ];
    for (name, key) in files {
        fs::write(folder.join(name), pem::encode(&key))?;
    }
    Ok(())
}
