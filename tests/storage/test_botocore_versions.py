"""S3 with the botocore that a training environment happens to have."""

import botocore.config
import botocore.session
import pytest

from microdiff.storage import s3

NEWER = "response_checksum_validation"  # since 1.36


def test_an_older_botocore_is_not_asked_for_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(botocore.config.Config):  # type: ignore[misc]  # botocore ships without type information
        OPTION_DEFAULTS = {  # noqa: RUF012 - as botocore has it
            name: value for name, value in botocore.config.Config.OPTION_DEFAULTS.items() if name != NEWER
        }

    made = s3._client.__wrapped__(0, ())  # without the cache
    assert getattr(made.meta.config, NEWER) == "when_required"
    monkeypatch.setattr(botocore.config, "Config", Older)
    monkeypatch.setattr(botocore.session.Session, "create_client", lambda *_, config, **__: config)
    assert not hasattr(s3._client.__wrapped__(0, ()), NEWER)
