"""Who answers questions: a server, or this process."""
