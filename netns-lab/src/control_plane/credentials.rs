//! Keys and tokens. The API server makes its own certificate, in the same folder.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pem::Pem;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

/// The key that tokens of service accounts are signed with.
pub(super) const KEY: &str = "service-accounts.key";
/// Who shows which token (`--token-auth-file`).
pub(super) const TOKENS: &str = "tokens.csv";

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
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
        let key = key.ok().context("making a key")?;
        let key = pem::encode(&Pem::new("PRIVATE KEY", key.as_ref()));
        fs::write(folder.join(KEY), key)?;
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
