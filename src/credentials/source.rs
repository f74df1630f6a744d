//! Where credentials come from. If regions.toml names a source, only that is used; otherwise the AWS SDK's
//! own sources, in its order. Each load reads them anew: a file may have changed.

use std::sync::{Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;

use super::NoCredentials;
use crate::config::Role;
use crate::fault::chain;

/// The source to load credentials from.
pub(crate) struct CredentialSource {
    /// The SDK configuration without credentials: region, endpoints, and the environment's other settings.
    pub(crate) sdk: SdkConfig,
    pub(crate) profile: Option<String>,
    pub(crate) role: Option<Role>,
}

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("can't read the AWS configuration files: {0}")]
    Unreadable(String),
    #[error(
        "no profile {name:?} in the AWS configuration files (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, or \
         those in ~/.aws); there are: {known}"
    )]
    Unknown { name: String, known: String },
}

/// The name of the source asked last.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<String>);

impl Asked {
    pub(super) fn name(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(
        &self,
        name: &str,
        provider: impl ProvideCredentials,
    ) -> Result<Credentials, CredentialsError> {
        name.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        provider.provide_credentials().await
    }

    fn failed(&self, error: &CredentialsError) -> NoCredentials {
        // The error's own text says only that it failed.
        let reason = std::error::Error::source(error).map_or_else(|| chain(error), chain);
        NoCredentials::Failed { source_name: self.name(), reason }
    }
}

impl CredentialSource {
    /// Checks that the profile exists; its content is checked when it is used.
    pub(crate) async fn check(&self) -> Result<(), ProfileError> {
        let Some(name) = &self.profile else { return Ok(()) };
        let (disk, environment, files) = Default::default();
        let files = aws_config::profile::load(&disk, &environment, &files, None)
            .await
            .map_err(|error| ProfileError::Unreadable(chain(&error)))?;
        if files.get_profile(name).is_some() {
            return Ok(());
        }
        let mut known: Vec<_> = files.profiles().collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(ProfileError::Unknown { name: name.clone(), known })
    }

    pub(super) async fn load(&self, asked: &Asked) -> Result<Credentials, NoCredentials> {
        let base = self.base(asked).await?;
        let Some(Role { arn, external_id }) = &self.role else { return Ok(base) };
        let mut role = AssumeRoleProvider::builder(arn).configure(&self.sdk).session_name("tradewind");
        if let Some(external_id) = external_id {
            role = role.external_id(external_id);
        }
        let name = format!("the role {arn} (assumed with the credentials of {})", asked.name());
        let role = role.build_from_provider(base).await;
        asked.ask(&name, role).await.map_err(|error| asked.failed(&error))
    }

    async fn base(&self, asked: &Asked) -> Result<Credentials, NoCredentials> {
        let config = ProviderConfig::without_region()
            .with_region(self.sdk.region().cloned())
            .with_use_fips(self.sdk.use_fips())
            .with_use_dual_stack(self.sdk.use_dual_stack())
            .with_retry_config(RetryConfig::standard());
        let profiles = ProfileFileCredentialsProvider::builder().configure(&config);
        if let Some(name) = &self.profile {
            let had = asked.ask(&format!("the profile {name:?}"), profiles.profile_name(name).build()).await;
            return had.map_err(|error| asked.failed(&error));
        }
        let environment = EnvironmentVariableCredentialsProvider::new();
        let identity = WebIdentityTokenCredentialsProvider::builder().configure(&config).build();
        let container = EcsCredentialsProvider::builder().configure(&config).build();
        let machine = ImdsCredentialsProvider::builder().configure(&config).build();
        let names = [
            "the environment",
            "the AWS profile",
            "the web identity",
            "the container",
            "the instance metadata",
        ];
        let [environment_name, profile_name, identity_name, container_name, machine_name] = names;
        let mut had = asked.ask(environment_name, environment).await;
        if has_none(&had) {
            had = asked.ask(profile_name, profiles.build()).await;
        }
        if has_none(&had) {
            had = asked.ask(identity_name, identity).await;
        }
        if has_none(&had) {
            had = asked.ask(container_name, container).await;
        }
        if has_none(&had) {
            had = asked.ask(machine_name, machine).await;
        }
        had.map_err(|error| match error {
            CredentialsError::CredentialsNotLoaded(_) => {
                let reason = "none of them has credentials".to_owned();
                NoCredentials::Failed { source_name: names.join(", "), reason }
            }
            error => asked.failed(&error),
        })
    }
}

/// Whether a provider has no credentials; one that failed is not skipped.
fn has_none(had: &Result<Credentials, CredentialsError>) -> bool {
    matches!(had, Err(CredentialsError::CredentialsNotLoaded(_)))
}
