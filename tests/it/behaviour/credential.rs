//! Which credential a send leaves with.

use super::send::areas;

areas!(credential_boundary, credential_decrypt, credential_resolution, platform_fallback);
