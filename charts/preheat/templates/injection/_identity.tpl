{{- /*
The cloud identity of the pod's containers, as preheat_operator.identity takes it.
*/ -}}
{{- define "preheat.injection.identity" }}
  # The cloud identity of the pod's containers: variables that name the file of a token, each with what belongs to it.
  - name: tokens
    expression: >-
      [['AWS_WEB_IDENTITY_TOKEN_FILE', 'AWS_ROLE_ARN', 'AWS_REGION', 'AWS_DEFAULT_REGION', 'AWS_STS_REGIONAL_ENDPOINTS'],
       ['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE', 'AWS_CONTAINER_CREDENTIALS_FULL_URI', 'AWS_REGION',
        'AWS_DEFAULT_REGION', 'AWS_STS_REGIONAL_ENDPOINTS'],
       ['AZURE_FEDERATED_TOKEN_FILE', 'AZURE_CLIENT_ID', 'AZURE_TENANT_ID', 'AZURE_AUTHORITY_HOST']]
  # What each container says of them; of two variables with one name the later counts.
  - name: told
    expression: >-
      variables.apps.transformList(i, c, variables.tokens.flatten().distinct().transformMapEntry(_, name, {name:
        variables.variableNames[i].lastIndexOf(name) < 0 ? ''
        : c.env[variables.variableNames[i].lastIndexOf(name)].?value.orValue('')}))
  # The mounts that hold a token's file, by token and container, the innermost first.
  - name: tokenMounts
    expression: >-
      variables.tokens.map(token, variables.apps.transformList(i, c, c.?volumeMounts.orValue([]).filter(m,
        variables.told[i][token[0]].startsWith(m.mountPath.endsWith('/') ? m.mountPath : m.mountPath + '/'))
        .sortBy(m, 0 - m.mountPath.size())))
  # By token, the first container that has such a mount; -1: none.
  - name: holders
    expression: variables.tokenMounts.map(each, each.map(mounts, mounts.size() > 0).indexOf(true))
  - name: identity
    expression: >-
      variables.tokens.transformList(t, token, variables.holders[t] >= 0, token
        .filter(name, variables.told[variables.holders[t]][name] != '')
        .map(name, dyn({'name': name, 'value': string(variables.told[variables.holders[t]][name])}))).flatten()
  - name: identityMounts
    expression: >-
      variables.tokens.transformList(t, token, variables.holders[t] >= 0,
        [variables.tokenMounts[t][variables.holders[t]][0]].map(m, {'name': dyn(m.name), 'mountPath': dyn(m.mountPath),
          'readOnly': dyn(true), ?'subPath': m.?subPath, ?'subPathExpr': m.?subPathExpr,
          ?'mountPropagation': m.?mountPropagation, ?'recursiveReadOnly': m.?recursiveReadOnly})).flatten()
{{- end }}
