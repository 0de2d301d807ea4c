"""What the dashboard does not do: one sentence, and the status of HTTP that goes with it."""


class Refusal(Exception):
    """A request that is not fulfilled. The text is for people.

    `status` is 400 for a mistake in the request, 404 for what is not there, 409 for what stands in the way.
    """

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.status = status
