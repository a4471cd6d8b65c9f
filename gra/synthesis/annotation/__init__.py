"""Label texts by a committee: requests, examples, votes, and doubts."""
