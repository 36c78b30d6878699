"""What apps ask of the authorization server. The pages that people see are in ``api/account``."""
