"""What of a root is shown, what of it is a secret, and how secrets stay out of params.yaml."""

import pytest

from microdiff.config.roots import expand, public_root, root_problem, secret_in, without_secrets, without_secrets_in

SECRET = "s3cret"  # noqa: S105 - planted


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("samples/coco", "samples/coco"),
        ("./samples", "samples"),
        ("/home/me/photos", "photos"),
        ("/home/me/photos/", "photos"),
        ("../me/photos", "photos"),
        ("samples/../../me/photos", "photos"),
        ("samples/../coco", "samples/../coco"),
        ("~me/photos", "photos"),
        ("file:///home/me/photos", "photos"),
        ("local:///home/me/photos/", "photos"),
        ("hf://datasets/ORG/NAME@main", "hf://datasets/ORG/NAME@main"),
        ("https://host:8080/a/b", "https://host:8080/a/b"),
        (f"https://me:{SECRET}@host/a", "https://host/a"),
        (f"https://{SECRET}@host/a?b=c", "https://host/a"),
        (f"https://host/a?X-Amz-Signature={SECRET}#{SECRET}", "https://host/a"),
        (f"s3://KEY:{SECRET}@bucket/a", "s3://bucket/a"),
        (f"https://me:{SECRET}/x@host/a", "https://"),  # its / should be %2F: half the password would be the path
        (f"openclip:https://me:{SECRET}@host/a", "openclip:https://host/a"),
        (f"zip://a.zip::https://me:{SECRET}@host/b.zip?sig={SECRET}", "zip://a.zip::https://host/b.zip"),
        (f"simplecache::https://host/b?sig=x::{SECRET}", "simplecache::https://host/b"),
        ("https://[oops", "https://"),
    ],
)
def test_what_artifacts_show_of_a_root(root: str, shown: str) -> None:
    assert public_root(root) == shown


def test_messages_keep_where_a_file_is_and_no_secret() -> None:
    assert without_secrets("file:///home/me/photos") == "file:///home/me/photos"
    said = without_secrets_in(f"a: got ['https://me:{SECRET}@host/a?sig={SECRET}', 's3://k:{SECRET}@b/c'], b: c")
    assert said == "a: got ['https://host/a', 's3://b/c'], b: c"


@pytest.mark.parametrize(
    ("root", "is_secret"),
    [
        ("samples/coco", False),
        ("/home/me:x@y?z", False),
        ("https://host/a", False),
        ("hf://datasets/ORG/NAME@main", False),
        ("s3://bucket/a", False),
        ("abfs://container@account.dfs.core.windows.net/a", False),
        ("ftp://anonymous@host/a", False),
        (f"ftp://me:{SECRET}@host/a", True),
        (f"https://{SECRET}@host/a", True),
        ("https://host/a?X-Amz-Signature=b", True),
        (f"zip://a::https://me:{SECRET}@host/a", True),
        (f"openclip:https://me:{SECRET}@host/a", True),
        ("https://$USER:$PASSWORD@host/a", False),
        ("https://me:$PASSWORD@host:$PORT/a?$SIGNATURE", False),
        ("https://me:$PASSWORD@host/a?sig=$SIGNATURE", True),
        ("$COCO", False),
    ],
)
def test_what_is_a_secret(root: str, is_secret: bool) -> None:
    assert (secret_in(root) is not None) == is_secret


def test_variables_are_looked_up() -> None:
    assert expand("https://me:$PASS@$HOST/a", {"PASS": "b", "HOST": "c:80"}) == "https://me:b@c:80/a"
    assert expand("samples/$", {}) == "samples/$"
    with pytest.raises(ValueError, match="names the environment variable PASS, which is not set"):
        expand("https://me:$PASS@host", {"PASS": ""})


def test_what_is_no_url_is_refused_without_being_shown() -> None:
    assert root_problem("https://host:80/a") is None
    for wrong in (f"https://me:{SECRET}/x@host/a", f"https://me:{SECRET}#x@host/a", "https://[oops"):
        problem = root_problem(wrong)
        assert problem is not None
        assert SECRET not in problem
