"""The models that can be named, and where the published ones lie on the Hub. Imports nothing, so that the command line may ask it."""

UNET_REPO, VAE_REPO = "hustvl/Moebius", "hustvl/PixelHacker"
# A branch moves: what it names today is fetched once and then kept. To be replaced by the 40 hex digits of a commit as soon as they
# can be looked up; `moebius download` prints them.
REVISIONS = {UNET_REPO: "main", VAE_REPO: "main"}
FOLDERS = {"pretrained": "pretrained", "places2": "ft_places2", "celebahq": "ft_celebahq", "ffhq": "ft_ffhq"}
NAMES = ", ".join(FOLDERS)
NANO = "nano"  # comes inside the package
