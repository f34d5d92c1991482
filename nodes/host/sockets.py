"""The pack's own socket types."""

from comfy_api.latest import io

Basis = io.Custom("LORWEB_BASIS")
Mixture = io.Custom("LORWEB_MIXTURE")
Analogy = io.Custom("LORWEB_ANALOGY")
