"""The committee: members, roles, review, adjudication and verifiers."""
