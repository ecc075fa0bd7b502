"""The voice of the provider that a VM leaves: policy, approval, disconnection."""
